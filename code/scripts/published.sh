# Sourced by qwen3.sh and deepseek.sh: the published matrix over its question file, or over any task.
#
# The question file is the published 120 questions where you have put them (data/SpecTTS_Bench/question_cot.jsonl);
# BENCH names any other task: aime24, aime25, math500, gpqa; QUESTION_FILE a file of your own.

BENCH="${BENCH:-SpecTTS_Bench}"
PARADIGMS="${PARADIGMS:-multi_round best_of_n}"
TEMPERATURES="${TEMPERATURES:-0.0 0.6}"
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-15000}"
DTYPE="${DTYPE:-bfloat16}"
LIMIT="${LIMIT:-}"                        # questions; empty: all
OUT="${OUT:-data/$BENCH}"
[ -n "${GPU_DEVICES:-}" ] && export CUDA_VISIBLE_DEVICES="$GPU_DEVICES"

if [ -z "${METHODS:-}" ]; then
    METHODS="$(all_methods)"
    [ -n "$DRAFTER_PATH" ] || METHODS="${METHODS/ sps/}"
    if [ ! -e "$DATASTORE_PATH" ]; then
        METHODS="${METHODS/ rest/}"
        echo "note: without a datastore at $DATASTORE_PATH the method rest is left out" >&2
    fi
fi

if [ "${1:-}" = --download ]; then
    shift
    for repository in "$MODEL_PATH" "$DRAFTER_PATH" "$EAGLE3_PATH"; do
        [ -z "$repository" ] || [ -d "$repository" ] || run hf download "$repository"
    done
fi

BENCH_FLAGS=(--bench-name "$BENCH" --dtype "$DTYPE")
[ -z "${QUESTION_FILE:-}" ] || BENCH_FLAGS+=(--question-file "$QUESTION_FILE")
[ -z "$LIMIT" ] || BENCH_FLAGS+=(--question-end "$LIMIT")

method_flags() {
    case "$1" in
        eagle3|sam_eagle3) echo "--ea-model-path $EAGLE3_PATH" ;;
        sps) echo "--drafter-path $DRAFTER_PATH" ;;
        rest) echo "--datastore-path $DATASTORE_PATH" ;;
        *) ;;
    esac
}

run_matrix "$@"
