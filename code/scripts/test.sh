#!/usr/bin/env bash
# Formatting, lint, types and tests: bash code/scripts/test.sh [pytest arguments]
set -euo pipefail
export EXTRAS="${EXTRAS:-test,ray}"
. "$(dirname "$0")/setup.sh"
ruff format --check .
ruff check .
mypy
exec python -m pytest -q "$@"
