#!/usr/bin/env bash
# The whole benchmark on the embedded mini family, on a CPU: bash code/scripts/mini.sh
#
# Every knob is an environment variable; further flags go to every run, as in: LIMIT=4 bash scripts/mini.sh --seed 1
# Budgets suit a CPU, which cannot verify 60 nodes nearly for free as a GPU can: MAX_NODES caps every draft.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

METHODS="${METHODS:-$(python -c 'from model.draft import names; print(*names())')}"
PARADIGMS="${PARADIGMS:-multi_round best_of_n}"
TEMPERATURES="${TEMPERATURES:-0.0 0.6}"
LIMIT="${LIMIT:-8}"                       # questions, of 80
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-640}"
MAX_NODES="${MAX_NODES:-10}"
THREADS="${THREADS:-1}"                   # for a model this small a second thread costs more than it brings
OUT="${OUT:-data/mini}"

for paradigm in $PARADIGMS; do
    for temperature in $TEMPERATURES; do
        # at temperature 0 the samples of Best-of-N are equal: nothing to measure
        if [ "$paradigm" = best_of_n ] && [ "$(python -c "print(float('$temperature') == 0)")" = True ]; then
            continue
        fi
        folder=model_answer; [ "$paradigm" = best_of_n ] && folder=model_answer_BON
        for method in $METHODS; do
            id="mini-$method-temperature-$temperature"
            python -m evaluation.inference --method "$method" --model-path mini --model-id "$id" \
                --bench-name mini --paradigm "$paradigm" --temperature "$temperature" --question-end "$LIMIT" \
                --max-new-tokens "$MAX_NEW_TOKENS" --max-nodes "$MAX_NODES" --threads "$THREADS" \
                --answer-file "$OUT/$folder/$id.jsonl" "$@"
        done
    done
done
python evaluation/speed.py "$OUT" --plot "$OUT/speed.png" --json "$OUT/speed.json"
echo "figure: $OUT/speed.png"
