#!/usr/bin/env bash
# The whole benchmark on the embedded mini family, on a CPU: bash code/scripts/mini.sh
#
# Every knob is an environment variable; further flags go to every run, as in:
#     LIMIT=4 bash scripts/mini.sh --seed 1
# Budgets suit a CPU, which cannot verify 60 nodes nearly for free as a GPU can: MAX_NODES caps every
# draft, and EAGLE-3 drafts a chain (each of its levels costs a tenth of a step).
# DRY_RUN=1 prints the commands. A second run does only what is missing.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
. scripts/parallel.sh

METHODS="${METHODS:-all}"
PARADIGMS="${PARADIGMS:-multi_round best_of_n}"
TEMPERATURES="${TEMPERATURES:-0.0 0.6}"
LIMIT="${LIMIT:-8}"                       # questions, of 80
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-640}"
MAX_NODES="${MAX_NODES:-8}"               # nodes of a draft, root included
THREADS="${THREADS:-1}"                   # a second thread costs a small model more than it brings
PARALLEL="${PARALLEL:-1}"                 # samples decoded together; several, as in "1 2 4 8", are compared
SAMPLES="${SAMPLES:-4}"                   # of a question; no fewer than are decoded together
OUT="${OUT:-data/mini}"

run() {  # samples together, folder, further flags
    local parallel="$1" folder="$2"
    shift 2
    python -m evaluation.matrix --model-path mini --model-name mini --out "$folder" \
        --methods $METHODS --paradigms $PARADIGMS --temperatures $TEMPERATURES \
        --for eagle3 "--eagle-depth 5 --eagle-top-k 1" \
        --for sam_eagle3 "--eagle-depth 5 --eagle-top-k 1" \
        --for suffix_eagle3 "--eagle-depth 5 --eagle-top-k 1" \
        --for blend_eagle3 "--eagle-depth 5 --eagle-top-k 1 --blend-inner-cost 1" \
        --for sps "--sps-tokens 6" \
        --bench-name mini --question-end "$LIMIT" --max-new-tokens "$MAX_NEW_TOKENS" \
        --max-nodes "$MAX_NODES" --threads "$THREADS" --samples "$SAMPLES" --parallel "$parallel" "$@"
}

each_parallel run "$@"
