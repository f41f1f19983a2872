# Sourced: the one loop behind mini.sh, qwen3.sh and deepseek.sh.
#
# Before calling `run_matrix` a script sets MODEL_PATH, MODEL_NAME, BENCH_FLAGS (an array), OUT, METHODS, PARADIGMS,
# TEMPERATURES, MAX_NEW_TOKENS and may define `method_flags METHOD`, which prints a method's own flags.
# DRY_RUN=1 prints the commands instead of running them. Finished work is skipped by the launcher itself.
# Methods run one after another. BESIDE="0 1 2 3" runs them beside each other, one on each of these GPUs; where two runs
# share a GPU, or a CPU, their records say so, and their times do not compare.

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
                beside python -m evaluation.inference --method "$method" --model-path "$MODEL_PATH" --model-id "$id" \
                    "${BENCH_FLAGS[@]}" --paradigm "$paradigm" --temperature "$temperature" \
                    --max-new-tokens "$MAX_NEW_TOKENS" --answer-file "$OUT/$folder/$id.jsonl" \
                    $(method_flags "$method") "$@"
            done
        done
    done
    finish_beside
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

# Runs a command on the next GPU of BESIDE that is free, in the background; without BESIDE as `run` does.
beside() {
    local gpu gpus
    [ -n "${BESIDE:-}" ] || { run "$@"; return; }
    if [ "${DRY_RUN:-0}" = 1 ]; then
        read -ra gpus <<<"$BESIDE"
        printf 'CUDA_VISIBLE_DEVICES=%s ' "${gpus[PRINTED++ % ${#gpus[@]}]}"
        run "$@"
        return
    fi
    while :; do
        for gpu in $BESIDE; do
            if ! is_busy "$gpu"; then
                CUDA_VISIBLE_DEVICES="$gpu" "$@" &
                RUNNING+=("$gpu:$!")
                return
            fi
        done
        sleep 1
    done
}

RUNNING=()  # gpu:process of the runs in the background
FAILED=0
PRINTED=0

# Is a run on this GPU? One that has ended is taken off the list, and its failure kept.
is_busy() {
    local entry pid left=() busy=1
    for entry in "${RUNNING[@]:-}"; do
        pid="${entry#*:}"
        if [ "${entry%%:*}" != "$1" ]; then
            left+=("$entry")
        elif kill -0 "$pid" 2>/dev/null; then
            left+=("$entry"); busy=0
        else
            wait "$pid" || FAILED=1
        fi
    done
    RUNNING=("${left[@]:-}")
    return $busy
}

# Waits for all runs in the background; stops where one has failed, as a run by itself would have.
finish_beside() {
    local entry
    for entry in "${RUNNING[@]:-}"; do
        [ -z "$entry" ] || wait "${entry#*:}" || FAILED=1
    done
    RUNNING=()
    [ "$FAILED" = 0 ] || { echo "error: a run has failed (see above); the same command goes on" >&2; exit 1; }
}

method_flags() { :; }

all_methods() { python -c 'from model.draft import names; print(*names())'; }
