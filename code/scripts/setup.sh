# Sourced by the other scripts: goes to code/, and makes sure of an environment with the packages.
#
# An active environment (venv or conda) is used as it is; otherwise .venv at the repository's root is made and used.
# PYTHON picks the interpreter (3.10 to 3.13), TORCH the build of PyTorch, EXTRAS the optional packages.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PYTHON="${PYTHON:-python3}"
TORCH="${TORCH:-torch==2.13.0}"

if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
    if [ ! -f ../.venv/bin/activate ]; then
        "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || {
            echo "error: $PYTHON is not Python 3.10 to 3.13; name one, as in: PYTHON=python3.11 bash $0" >&2
            exit 2
        }
        echo "making the environment .venv" >&2
        "$PYTHON" -m venv ../.venv || exit 1
    fi
    . ../.venv/bin/activate
fi

# installed once for this list of packages; the stamp lies in the environment
wanted="$(cat pyproject.toml; echo "$TORCH")"
stamp="$(python -c 'import sys; print(sys.prefix)')/spectts-bench.installed${EXTRAS:+-$EXTRAS}"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing packages (once)" >&2
    python -c 'import torch' 2>/dev/null || python -m pip install -q "$TORCH" || exit 1
    python -m pip install -q -e ".${EXTRAS:+[$EXTRAS]}" || exit 1
    printf '%s\n' "$wanted" > "$stamp"
fi
