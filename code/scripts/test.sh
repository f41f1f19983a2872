#!/usr/bin/env bash
# All tests: bash code/scripts/test.sh [pytest arguments]
set -euo pipefail
export EXTRAS="${EXTRAS:-test,ray}"
. "$(dirname "$0")/setup.sh"
ruff check .
exec python -m pytest -q "$@"
