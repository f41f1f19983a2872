"""Every kernel compiles for a Hopper GPU, at shapes of published models. Needs Triton, no GPU."""

import itertools

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model.engine.device import kernels

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
TWO_PROGRAMS = 116 << 10  # bytes of shared memory that let two share a processor of 228 KiB


def kind_of(name: str, constants: dict, dtype: str) -> str:
    if name in constants:
        return "constexpr"
    return TYPES.get(name) or (f"*{dtype}" if name in TENSORS else "i32")


def compiled(kernel, constants: dict, dtype: str, stages: int):
    names = kernel.arg_names
    kinds = {name: kind_of(name, constants, dtype) for name in names}
    aligned = {}
    for i, name in enumerate(names):
        if name not in constants and name not in NOT_ALIGNED:
            aligned[i,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, kinds, constexprs=constants, attrs=aligned)
    options = {"num_warps": 4, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


for dtype, tile, store, dim, sequences in itertools.product(
    ("bf16", "fp32"), (16, 64), (True, False), (64, 128), (0, 2, 16)
):
    is_fp32 = dtype == "fp32"
    if (is_fp32 and tile > 16) or (sequences and not store):
        continue
    shapes = {
        "HEADS": 32,
        "GROUPS": 4,
        "DIM": dim,
        "TILE_M": tile,
        "BLOCK_N": kernels.BLOCK,
        "STORE": store,
        "PRECISION": "ieee" if is_fp32 else "tf32",
        "SEQUENCES": sequences,
    }
    stages = kernels.stages(is_fp32, tile)
    shared = compiled(kernels._attend_piece, shapes, dtype, stages).metadata.shared
    assert shared <= TWO_PROGRAMS, (dtype, tile, store, sequences, shared)
for sequences in (0, 16):
    sizes = {"HEADS": 32, "PIECES": 33, "PLACES": 64, "DIM": 128, "SEQUENCES": sequences}
    compiled(kernels._merge, sizes, "bf16", 3)
compiled(kernels._sample_block, {"BLOCK_V": kernels.VOCABULARY_BLOCK}, "bf16", 3)
print("kernels compile")
