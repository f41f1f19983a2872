#!/usr/bin/env bash
# The published experiments on Qwen3 (4B, 8B or 14B), all methods: cd code; bash scripts/qwen3.sh
#
# bash scripts/qwen3.sh --download   fetches target, draft model and EAGLE-3 head from the hub first
# DRY_RUN=1 bash scripts/qwen3.sh    prints the commands
# Needs a REST datastore for the method rest: python -m training.datastore --help
set -euo pipefail
EXTRAS="${EXTRAS:-hub}"
. "$(dirname "$0")/setup.sh"

MODEL_SIZE="${MODEL_SIZE:-8}"                                  # 4, 8 or 14 (billion parameters)
MODEL_PATH="${MODEL_PATH:-Qwen/Qwen3-${MODEL_SIZE}B}"          # or a local folder
DRAFTER_PATH="${DRAFTER_PATH:-Qwen/Qwen3-0.6B}"
case "$MODEL_SIZE" in
    8) EAGLE3_PATH="${EAGLE3_PATH:-Tengyunw/qwen3_8b_eagle3}" ;;
    *) EAGLE3_PATH="${EAGLE3_PATH:-AngelSlim/Qwen3-${MODEL_SIZE}B_eagle3}" ;;
esac
DATASTORE_PATH="${DATASTORE_PATH:-data/datastores/qwen3.datastore}"
MODEL_NAME="${MODEL_NAME:-Qwen3-${MODEL_SIZE}B}"
. scripts/published.sh "$@"
