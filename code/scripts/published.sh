# Sourced by qwen3.sh and deepseek.sh: the published matrix over its question file, or over any task.
#
# The question file is the published 120 questions where you have put them
# (data/SpecTTS_Bench/question_cot.jsonl); BENCH names any other task: aime24, aime25, math500, gpqa;
# QUESTION_FILE a file of your own. BESIDE="0 1 2 3" runs methods beside each other, one on each of
# these GPUs; GPU_DEVICES are the ones that are seen at all. PRESET=batch is Best-of-16 with 1 to 16
# samples decoded together, in place of the published matrix.

. scripts/parallel.sh
case "${PRESET:-published}" in
    published) ;;
    batch)
        PARADIGMS="${PARADIGMS:-best_of_n}"
        TEMPERATURES="${TEMPERATURES:-0.6}"
        PARALLEL="${PARALLEL:-1 2 4 8 16}"
        ;;
    *)
        echo "error: PRESET is 'published' or 'batch', not '$PRESET'" >&2
        exit 2
        ;;
esac

BENCH="${BENCH:-SpecTTS_Bench}"
# the published ones first, then what is newer
METHODS="${METHODS:-vanilla sps pld recycling lookahead rest pia sam eagle3 sam_eagle3 all}"
PARADIGMS="${PARADIGMS:-multi_round best_of_n}"
TEMPERATURES="${TEMPERATURES:-0.0 0.6}"
PARALLEL="${PARALLEL:-1}"                 # samples decoded together; several, as in "1 2 4 8", are compared
SAMPLES="${SAMPLES:-4}"                   # of a question; no fewer than are decoded together
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-15000}"
DTYPE="${DTYPE:-bfloat16}"
LIMIT="${LIMIT:-}"                        # questions; empty: all
OUT="${OUT:-data/$BENCH}"
[ -n "${GPU_DEVICES:-}" ] && export CUDA_VISIBLE_DEVICES="$GPU_DEVICES"

if [ "${1:-}" = --download ]; then
    shift
    for repository in "$MODEL_PATH" "$DRAFTER_PATH" "$EAGLE3_PATH"; do
        [ -n "$repository" ] && [ ! -d "$repository" ] || continue
        if [ "${DRY_RUN:-0}" = 1 ]; then
            echo "hf download $repository"
        else
            hf download "$repository"
        fi
    done
fi

without=""
[ -n "$DRAFTER_PATH" ] || without+=" sps"
if [[ " $METHODS " == *" all "* ]] && [ ! -e "$DATASTORE_PATH" ]; then
    without+=" rest"
    echo "note: without a datastore at $DATASTORE_PATH the method rest is left out" >&2
fi
flags=(--bench-name "$BENCH" --dtype "$DTYPE" --max-new-tokens "$MAX_NEW_TOKENS")
[ -z "${QUESTION_FILE:-}" ] || flags+=(--question-file "$QUESTION_FILE")
[ -z "$LIMIT" ] || flags+=(--question-end "$LIMIT")

run() {  # samples together, folder, further flags
    local parallel="$1" folder="$2"
    shift 2
    python -m evaluation.matrix --model-path "$MODEL_PATH" --model-name "$MODEL_NAME" --out "$folder" \
        --methods $METHODS --without $without \
        --paradigms $PARADIGMS --temperatures $TEMPERATURES \
        --for eagle3 "--eagle-head '$EAGLE3_PATH'" \
        --for sam_eagle3 "--eagle-head '$EAGLE3_PATH'" \
        --for suffix_eagle3 "--eagle-head '$EAGLE3_PATH'" \
        --for blend_eagle3 "--eagle-head '$EAGLE3_PATH'" \
        --for sps "--sps-model '$DRAFTER_PATH'" \
        --for rest "--rest-datastore '$DATASTORE_PATH'" \
        "${flags[@]}" --samples "$SAMPLES" --parallel "$parallel" "$@"
}

each_parallel run "$@"
