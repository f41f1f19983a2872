#!/usr/bin/env bash
# The whole benchmark on the embedded mini family, on a CPU: bash code/scripts/mini.sh
#
# Every knob is an environment variable; further flags go to every run, as in: LIMIT=4 bash scripts/mini.sh --seed 1
# Budgets suit a CPU, which cannot verify 60 nodes nearly for free as a GPU can: MAX_NODES caps every draft.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
. scripts/matrix.sh

METHODS="${METHODS:-$(all_methods)}"
PARADIGMS="${PARADIGMS:-multi_round best_of_n}"
TEMPERATURES="${TEMPERATURES:-0.0 0.6}"
LIMIT="${LIMIT:-8}"                       # questions, of 80
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-640}"
MAX_NODES="${MAX_NODES:-8}"               # nodes of a draft, root included
THREADS="${THREADS:-1}"                   # for a model this small a second thread costs more than it brings
OUT="${OUT:-data/mini}"
MODEL_PATH=mini
MODEL_NAME=mini
BENCH_FLAGS=(--bench-name mini --question-end "$LIMIT" --max-nodes "$MAX_NODES" --threads "$THREADS")

method_flags() {
    case "$1" in
        eagle3|sam_eagle3) echo "--depth 5 --top-k 1" ;;  # a chain: each level costs a tenth of a step
        sps) echo "--draft-tokens 6" ;;
        *) ;;
    esac
}

run_matrix "$@"
echo "records and figure: $OUT (speed.png)"
