#!/usr/bin/env bash
# The published experiments on DeepSeek-R1-Distill-Llama-8B: cd code; bash scripts/deepseek.sh
#
# bash scripts/deepseek.sh --download   fetches target and EAGLE-3 head from the hub first
# DRY_RUN=1 bash scripts/deepseek.sh    prints the commands
# No published draft model has this vocabulary, so sps is left out unless DRAFTER_PATH names one.
set -euo pipefail
EXTRAS="${EXTRAS:-hub}"
. "$(dirname "$0")/setup.sh"

MODEL_PATH="${MODEL_PATH:-deepseek-ai/DeepSeek-R1-Distill-Llama-8B}"
DRAFTER_PATH="${DRAFTER_PATH:-}"
EAGLE3_PATH="${EAGLE3_PATH:-yuhuili/EAGLE3-DeepSeek-R1-Distill-LLaMA-8B}"
DATASTORE_PATH="${DATASTORE_PATH:-data/datastores/deepseek.datastore}"
MODEL_NAME="${MODEL_NAME:-DeepSeek-R1-Distill-Llama-8B}"
. scripts/published.sh "$@"
