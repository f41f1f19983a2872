"""Every kernel compiles for a Hopper GPU, at shapes of published models. Needs Triton, no GPU."""

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model.engine.device import kernels
from model.engine.device.launch import CANDIDATES, DEFAULT, Launch

TYPES = {
    "starts": "*i64",
    "slots": "*i64",
    "first_rows": "*i64",
    "mask": "*u8",
    "partial": "*fp32",
    "logsum": "*fp32",
    "scaling": "fp32",
    "keys": "*i64",
    "temperature": "*fp64",
    "best_score": "*fp32",
    "best_token": "*i64",
}
TENSORS = ("query", "key", "value", "cached_keys", "cached_values", "out", "logits")
NOT_ALIGNED = ("rows", "new_rows", "pieces", "scaling", "entries", "vocabulary")
HOPPER = 227 << 10  # bytes of shared memory that one program may have
TWO_PROGRAMS = 116 << 10  # bytes of shared memory that let two share a processor of 228 KiB


def kind_of(name: str, constants: dict, dtype: str) -> str:
    if name in constants:
        return "constexpr"
    return TYPES.get(name) or (f"*{dtype}" if name in TENSORS else "i32")


def compiled(kernel, constants: dict, dtype: str, stages: int, warps: int = 4):
    names = kernel.arg_names
    kinds = {name: kind_of(name, constants, dtype) for name in names}
    aligned = {}
    for i, name in enumerate(names):
        if name not in constants and name not in NOT_ALIGNED:
            aligned[i,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, kinds, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def spilled_bytes(program) -> int:
    """Of a thread: registers that lie in memory; -1 where Triton brings no tool that tells."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    tool = next(iter(tools.glob("cuobjdump*")), None)
    if tool is None:
        return -1
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", told)[1])


def piece(
    launch: Launch, dtype: str, tile: int, store: bool = True, dim: int = 128, sequences: int = 0
):
    """The program that folds a piece of the prefix."""
    is_fp32 = dtype == "fp32"
    shapes = {
        "HEADS": 32,
        "GROUPS": 4,
        "DIM": dim,
        "TILE_M": tile,
        "BLOCK_N": launch.block,
        "STORE": store,
        "PRECISION": "ieee" if is_fp32 else "tf32",
        "SEQUENCES": sequences,
    }
    stages = kernels.stages(is_fp32, tile, launch)
    return compiled(kernels._attend_piece, shapes, dtype, stages, launch.warps)


BY_DEFAULT = (
    {"dtype": "bf16", "tile": 16},
    {"dtype": "bf16", "tile": 64},
    {"dtype": "bf16", "tile": 64, "store": False},
    {"dtype": "bf16", "tile": 16, "sequences": 2},
    {"dtype": "bf16", "tile": 64, "sequences": 16},
    {"dtype": "bf16", "tile": 64, "dim": 64, "sequences": 2},
    {"dtype": "fp32", "tile": 16},
    {"dtype": "fp32", "tile": 16, "dim": 64, "store": False},
)
for how in BY_DEFAULT:
    shared = piece(DEFAULT, **how).metadata.shared
    assert shared <= TWO_PROGRAMS, (how, shared)
for launch in CANDIDATES:
    if launch.kernel != "split_kv":
        continue
    program = piece(launch, "bf16", launch.tile, sequences=2)
    assert program.metadata.shared <= HOPPER, (str(launch), program.metadata.shared)
    assert spilled_bytes(program) <= 0, str(launch)
for sequences in (0, 16):
    sizes = {"HEADS": 32, "PIECES": 33, "PLACES": 64, "DIM": 128, "SEQUENCES": sequences}
    compiled(kernels._merge, sizes, "bf16", 3)
compiled(kernels._sample_block, {"BLOCK_V": kernels.VOCABULARY_BLOCK}, "bf16", 3)
print("kernels compile")
