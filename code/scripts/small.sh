#!/usr/bin/env bash
# A published instruct model that is small enough for a CPU: bash code/scripts/small.sh
#
# All methods that need no trained part, over a few questions, in fp32 and in bf16. Every knob is an
# environment variable; further flags go to every run. MODEL_PATH is a hub id, a folder in Hugging
# Face's layout, or a GGUF file (its weights are dequantised). DRY_RUN=1 prints the commands.
#
#     MODEL_PATH=SmolLM2-135M-Instruct.Q4_1.gguf QUESTION_FILE=my_questions.jsonl bash scripts/small.sh
#     HEAD=1 HEAD_PROMPTS=my_prompts.txt bash scripts/small.sh     trains an EAGLE-3 head too, and runs it
set -euo pipefail
EXTRAS="${EXTRAS:-small,hub}"
. "$(dirname "$0")/setup.sh"

MODEL_PATH="${MODEL_PATH:-HuggingFaceTB/SmolLM2-135M-Instruct}"
MODEL_NAME="${MODEL_NAME:-small}"
BENCH="${BENCH:-gsm8k}"                   # or math500; QUESTION_FILE names a file of your own
DTYPES="${DTYPES:-float32 bfloat16}"
METHODS="${METHODS:-vanilla lookahead pia pld recycling sam}"
PARADIGMS="${PARADIGMS:-multi_round}"     # and best_of_n
TEMPERATURES="${TEMPERATURES:-0.0}"
LIMIT="${LIMIT:-6}"                       # questions; fewer than 6 get no verdict
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-192}"
OUT="${OUT:-data/small}"
HEAD="${HEAD:-}"                          # 1: train an EAGLE-3 head (EAGLE3_PATH), and run it
EAGLE3_PATH="${EAGLE3_PATH:-$OUT/eagle3}"
HEAD_TOKENS="${HEAD_TOKENS:-100000}"      # that the target writes for the head to learn from
THREADS="${THREADS:-0}"

questions=(--bench-name "$BENCH" --question-end "$LIMIT" --answer-instruction)
[ -z "${QUESTION_FILE:-}" ] || questions+=(--question-file "$QUESTION_FILE")
head=()
if [ -n "$HEAD" ]; then
    train=(python -m training.eagle3 --model-path "$MODEL_PATH" --out "$EAGLE3_PATH"
        --prompts "${HEAD_PROMPTS:?HEAD=1 needs HEAD_PROMPTS: a file with a prompt a line}"
        --tokens "$HEAD_TOKENS" --max-new-tokens "$MAX_NEW_TOKENS" --draft-vocab 8000 --threads "$THREADS")
    if [ "${DRY_RUN:-0}" = 1 ]; then echo "${train[*]}"; else "${train[@]}"; fi
    METHODS+=" eagle3 sam_eagle3 suffix_eagle3 blend_eagle3"
    for method in eagle3 sam_eagle3 suffix_eagle3 blend_eagle3; do
        head+=(--for "$method" "--eagle-head '$EAGLE3_PATH' --eagle-depth 5 --eagle-top-k 1")
    done
fi
for dtype in $DTYPES; do
    python -m evaluation.matrix --model-path "$MODEL_PATH" --model-name "$MODEL_NAME" --out "$OUT/$dtype" \
        --methods $METHODS --paradigms $PARADIGMS --temperatures $TEMPERATURES "${head[@]}" \
        "${questions[@]}" --max-new-tokens "$MAX_NEW_TOKENS" --dtype "$dtype" --threads "$THREADS" "$@"
done
echo "records and figures: $OUT/{${DTYPES// /,}}"
