#!/usr/bin/env bash
# vLLM without speculation and with each of its methods, in turn, on the same questions:
#
#     LOCAL=1 bash scripts/engines/vllm.sh                                a CPU, the mini family
#     MODEL_PATH=Qwen/Qwen3-8B DRAFTER_PATH=Qwen/Qwen3-0.6B EAGLE3_PATH=... BENCH=aime24 \
#         VLLM_PYTHON=/path/to/python bash scripts/engines/vllm.sh        a GPU
#
# A server is started for every method, waited for, asked, and stopped; then one table compares the
# methods with vLLM's own vanilla. METHODS: vanilla, ngram, suffix, draft_model, eagle3, and methods
# of ours that draft chains (sam, pld, ...), which run inside vLLM. SERVER_FLAGS go to every server:
# --tensor-parallel-size 4, or --distributed-executor-backend ray over several machines. Further
# flags go to every run (python -m evaluation.engine --help). DRY_RUN=1 prints the commands.
set -euo pipefail
export EXTRAS="${EXTRAS:-}"
. "$(dirname "$0")/../setup.sh"

LOCAL="${LOCAL:-0}"
HOST=127.0.0.1
PORT="${PORT:-8017}"
TOKENS="${TOKENS:-5}"                     # drafted a step
CONCURRENCY="${CONCURRENCY:-1}"
TEMPERATURES="${TEMPERATURES:-0.0}"
PARADIGM="${PARADIGM:-best_of_n}"
DRY_RUN="${DRY_RUN:-0}"
serve=(--host "$HOST" --port "$PORT")
if [ "$LOCAL" = 1 ]; then
    VLLM_ENV="${VLLM_ENV:-$PWD/../.venv-vllm}"
    VLLM_PYTHON="${VLLM_PYTHON:-$VLLM_ENV/bin/python}"
    if [ "$DRY_RUN" = 0 ] && [ ! -x "$VLLM_PYTHON" ]; then
        echo "making vLLM's environment in $VLLM_ENV (once, some minutes)" >&2
        SUFFIX="${SUFFIX:-0}" bash scripts/engines/vllm_cpu.sh "$VLLM_ENV"
    fi
    MODEL_PATH="${MODEL_PATH:-$PWD/data/mini/target}"
    DRAFTER_PATH="${DRAFTER_PATH:-$PWD/data/mini/draft}"
    EAGLE3_PATH="${EAGLE3_PATH:-$PWD/data/mini/eagle3}"
    MODEL_NAME="${MODEL_NAME:-mini}"
    BENCH="${BENCH:-mini}"
    METHODS="${METHODS:-vanilla ngram draft_model eagle3 sam}"
    LIMIT="${LIMIT:-6}"
    MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-400}"
    OUT="${OUT:-data/mini/vllm}"
    serve+=(--dtype float32 --enforce-eager --max-model-len 8192)
    export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}" VLLM_CPU_OMP_THREADS_BIND=nobind
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
else
    VLLM_PYTHON="${VLLM_PYTHON:-python}"
    MODEL_PATH="${MODEL_PATH:?name the model: a hub id or a folder}"
    MODEL_NAME="${MODEL_NAME:-$(basename "$MODEL_PATH")}"
    DRAFTER_PATH="${DRAFTER_PATH:-}"
    EAGLE3_PATH="${EAGLE3_PATH:-}"
    BENCH="${BENCH:-aime24}"
    METHODS="${METHODS:-vanilla ngram suffix${DRAFTER_PATH:+ draft_model}${EAGLE3_PATH:+ eagle3}}"
    LIMIT="${LIMIT:-}"
    MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-15000}"
    OUT="${OUT:-data/$BENCH/vllm}"
fi
serve+=(--model "$MODEL_PATH" --served-model-name "$MODEL_NAME" ${SERVER_FLAGS:-})
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1

# method: the JSON of vLLM's --speculative-config; empty for vanilla
speculation() {
    local tokens="\"num_speculative_tokens\": $TOKENS"
    case "$1" in
        vanilla) ;;
        ngram) echo "{\"method\": \"ngram\", $tokens, \"prompt_lookup_max\": 3, \"prompt_lookup_min\": 1}" ;;
        suffix) echo "{\"method\": \"suffix\", $tokens}" ;;
        draft_model) echo "{\"method\": \"draft_model\", \"model\": \"$DRAFTER_PATH\", $tokens}" ;;
        eagle3) echo "{\"method\": \"eagle3\", \"model\": \"$EAGLE3_PATH\", $tokens}" ;;
        *) echo "{\"method\": \"custom_class\", \"model\": \"model.vllm_drafter.Drafters\", $tokens}" ;;
    esac
}

server=""
stop() {
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        kill -INT "$server" 2>/dev/null || true
        for _ in $(seq 60); do
            kill -0 "$server" 2>/dev/null || break
            sleep 0.5
        done
        kill -KILL -- "-$server" 2>/dev/null || true
    fi
    server=""
}
trap stop EXIT

start() {  # method, log
    local method="$1" log="$2" config
    config="$(speculation "$method")"
    local words=("$VLLM_PYTHON" -m vllm.entrypoints.openai.api_server "${serve[@]}")
    [ -z "$config" ] || words+=(--speculative-config "$config" --per-request-spec-decode-metrics detailed)
    if [ "$DRY_RUN" = 1 ]; then
        printf '%q ' "${words[@]}"
        echo
        return
    fi
    # a group of its own: its workers end with it
    SPECTTS_DRAFTER="$method" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" \
        setsid "${words[@]}" > "$log" 2>&1 &
    server=$!
    echo "$method: waiting for the server (its log: $log)" >&2
    for _ in $(seq "${START_SECONDS:-600}"); do
        if python -c "import urllib.request as u; u.urlopen('http://$HOST:$PORT/health', timeout=2)" 2>/dev/null; then
            return
        fi
        kill -0 "$server" 2>/dev/null || break
        sleep 1
    done
    echo "error: vLLM did not start with $method; the end of $log:" >&2
    grep -E "Error|error" "$log" | tail -3 >&2 || true
    return 1
}

mkdir -p "$OUT"
status=0
for method in $METHODS; do
    if ! start "$method" "$OUT/$method.log"; then
        status=1
        stop
        continue
    fi
    for temperature in $TEMPERATURES; do
        paradigm="$PARADIGM"
        # equal samples are nothing to measure
        [[ "$temperature" =~ [1-9] ]] || paradigm=multi_round
        words=(python -m evaluation.engine --base-url "http://$HOST:$PORT" --method "$method"
            --bench-name "$BENCH" ${LIMIT:+--question-end "$LIMIT"} --max-new-tokens "$MAX_NEW_TOKENS"
            --paradigm "$paradigm" --temperature "$temperature" --concurrency "$CONCURRENCY"
            --answer-file "$OUT/$MODEL_NAME-$method-temperature-$temperature.jsonl" "$@")
        if [ "$DRY_RUN" = 1 ]; then
            echo "${words[*]}"
        else
            "${words[@]}" || status=$?
        fi
    done
    stop
done
[ "$DRY_RUN" = 0 ] || exit 0
python evaluation/speed.py "$OUT" --json "$OUT/speed.json"
exit "$status"
