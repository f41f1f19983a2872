"""The kernels against their references. Run under TRITON_INTERPRET=1, which is read on import."""

import itertools

import scalars  # noqa: F401  mends old interpreters
import torch

from model.engine.device import kernels
from model.engine.device.launch import DEFAULT, Launch
from model.engine.device.tree_attention import reference
from model.engine.noise import PositionNoise, exponential
from model.engine.sampling import noisy_argmax

SHAPES = (  # rows, new rows, heads, key heads, head dimension, cache positions, cached rows
    (1, 1, 4, 2, 32, 300, 200),
    (5, 5, 4, 4, 16, 300, 1),
    (48, 48, 4, 1, 64, 400, 300),
    (10, 30, 4, 1, 32, 300, 77),
    (3, 3, 4, 2, 32, 100, 0),
    (128, 128, 2, 1, 16, 500, 193),
    (2, 2, 8, 2, 128, 400, 256),
)
torch.manual_seed(0)
# the interpreter is slow: in half precision the small shapes suffice
for dtype, tolerance, shapes in (
    (torch.float32, 1e-5, SHAPES),
    (torch.float16, 3e-3, SHAPES[:2]),
):
    for rows, new, heads, kv_heads, dim, positions, start in shapes:
        q = torch.randn(rows, heads, dim).to(dtype)
        k, v = (torch.randn(new, kv_heads, dim).to(dtype) for _ in range(2))
        cache = torch.randn(2, positions, kv_heads, dim).to(dtype)
        mask = torch.rand(rows, new) < 0.5
        mask[:, 0] = True
        written, at = cache.clone(), torch.tensor([start])
        plain = reference(q.float(), k.float(), v.float(), cache.float(), at, mask, dim**-0.5)
        # one piece of the prefix, and several, the last ones empty
        for processors in (1, 9) if rows < 9 else (9,):
            out = kernels.attend(q, k, v, written, at, mask, dim**-0.5, True, processors)
            assert (out.float() - plain).abs().max() < tolerance, (dtype, rows, processors)
        cache[:, start : start + new] = torch.stack([k, v])
        assert torch.equal(written, cache)
        turned = q.transpose(0, 1).contiguous().transpose(0, 1)
        outs = [kernels.attend(x, k, v, cache, at, mask, 0.2, False, 8) for x in (q, turned)]
        assert torch.equal(*outs)
ROWS = (  # of each sequence, at a time
    (1, 1, 1, 1),
    (3, 0, 20, 1),
    (65, 2, 0, 0),
)
for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 3e-3)):
    for rows_of in ROWS if dtype == torch.float32 else ROWS[:1]:
        rows, padding = sum(rows_of), 3
        q = torch.randn(rows + padding, 4, 32).to(dtype)
        k, v = (torch.randn(rows + padding, 2, 32).to(dtype) for _ in range(2))
        cache = torch.randn(2, 5, 300, 2, 32).to(dtype)
        borders = torch.tensor([0, *itertools.accumulate(rows_of)])
        starts, slots = torch.tensor([7, 0, 200, 65]), torch.tensor([4, 1, 0, 2])
        mask = torch.rand(rows + padding, 128) < 0.5
        mask[:, 0] = True
        stored = cache.float()
        plain = torch.zeros(rows + padding, 4, 32)
        for sequence, slot in enumerate(slots):
            own = slice(borders[sequence], borders[sequence + 1])
            if own.start == own.stop:
                continue
            at, seen = starts[sequence, None], mask[own, : own.stop - own.start]
            plain[own] = reference(
                *(x[own].float() for x in (q, k, v)), stored[:, slot], at, seen, 0.2
            )
            stored[:, slot, at : at + own.stop - own.start] = torch.stack([k[own], v[own]]).float()
        ways = [(1, DEFAULT), (9, DEFAULT)][: 1 + (rows == 24)]
        if dtype == torch.float16:  # other settings of the same program
            ways += [(9, Launch(tile=128, block=32, programs=1)), (9, Launch(block=128))]
        for processors, launch in ways:
            written = cache.clone()
            layout = kernels.Layout(starts, slots, borders)
            out = kernels.attend_packed(q, k, v, written, layout, mask, 0.2, processors, launch)
            difference = (out[:rows].float() - plain[:rows]).abs().max()
            assert difference < tolerance, (dtype, rows_of, str(launch))
            assert not out[rows:].any()
            assert torch.equal(written.float(), stored)
logits = torch.randn(3, 9001) * 3
keys = torch.tensor(PositionNoise(1 << 63 | 5).keys([0, 1, 9999]))
drawn = kernels.sample(logits, keys, torch.tensor([0.7], dtype=torch.float64))
assert torch.equal(drawn, noisy_argmax(logits / 0.7, exponential(keys, 9001)))
print("kernels agree")
