#!/usr/bin/env bash
# Formatting, lint, types and tests: bash code/scripts/test.sh [pytest arguments]
# JOBS processes run the tests (2; 0: this one).
set -euo pipefail
export EXTRAS="${EXTRAS:-test,ray}"
. "$(dirname "$0")/setup.sh"
ruff format --check .
ruff check .
mypy
exec python -m pytest -q -n "${JOBS:-2}" --dist worksteal "$@"
