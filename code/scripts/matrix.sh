# Sourced: the one loop behind mini.sh, qwen3.sh and deepseek.sh.
#
# Before calling `run_matrix` a script sets MODEL_PATH, MODEL_NAME, BENCH_FLAGS (an array), OUT, METHODS, PARADIGMS,
# TEMPERATURES, MAX_NEW_TOKENS and may define `method_flags METHOD`, which prints a method's own flags.
# DRY_RUN=1 prints the commands instead of running them. Finished work is skipped by the launcher itself.

run_matrix() {
    local paradigm temperature method folder id
    for paradigm in $PARADIGMS; do
        for temperature in $TEMPERATURES; do
            # at temperature 0 the samples of Best-of-N are equal: nothing to measure
            if [ "$paradigm" = best_of_n ] && [[ "$temperature" =~ ^0(\.0*)?$ ]]; then
                continue
            fi
            case "$paradigm" in
                multi_round) folder=model_answer ;;
                best_of_n) folder=model_answer_BON ;;
                *) folder="model_answer_$paradigm" ;;
            esac
            for method in $METHODS; do
                id="$MODEL_NAME-$method-temperature-$temperature"
                run python -m evaluation.inference --method "$method" --model-path "$MODEL_PATH" --model-id "$id" \
                    "${BENCH_FLAGS[@]}" --paradigm "$paradigm" --temperature "$temperature" \
                    --max-new-tokens "$MAX_NEW_TOKENS" --answer-file "$OUT/$folder/$id.jsonl" \
                    $(method_flags "$method") "$@"
            done
        done
    done
    run python evaluation/speed.py "$OUT" --plot "$OUT/speed.png" --json "$OUT/speed.json"
    run python -m evaluation.score "$OUT"
}

run() {
    if [ "${DRY_RUN:-0}" = 1 ]; then
        printf '%q ' "$@"; echo
    else
        "$@"
    fi
}

method_flags() { :; }

all_methods() { python -c 'from model.draft import names; print(*names())'; }
