#!/usr/bin/env bash
# Formatting, lint, types and tests: bash code/scripts/test.sh [pytest arguments]
# JOBS processes run the tests (2; 0: this one). Types are checked meanwhile, and told at the end.
set -euo pipefail
export EXTRAS="${EXTRAS:-test,ray}"
. "$(dirname "$0")/setup.sh"
ruff format --check .
ruff check .
types="$(mktemp)"
trap 'rm -f "$types"' EXIT
mypy > "$types" 2>&1 &
checking=$!
status=0
python -m pytest -q -n "${JOBS:-2}" --dist worksteal "$@" || status=$?
wait "$checking" || status=1
cat "$types"
exit "$status"
