"""Tree attention beside what else can do it: microseconds of one layer's attention by shape.

    python bench/attention.py [--shape qwen3-8b] [--out attention.json]

n new rows, a random tree, over a cached prefix: our kernel, PyTorch's scaled_dot_product_attention
under a mask, FlexAttention (compiled on a GPU), and where they are installed FlashInfer and, for
chains alone, FlashAttention. Who differs from the reference is named and not timed. `bytes` is
what reading keys and values once takes at the bandwidth of a copy. On a CPU, where our kernel is
PyTorch's operator, it runs on small shapes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import json

import torch
import torch.nn.functional as F
from random_models import SHAPES
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from evaluation.command import Parser, run_command, summary
from evaluation.records.writer import write_atomically
from evaluation.report.formatting import UNKNOWN, Table
from model.engine.device.tree_attention import reference, tree_attention
from model.engine.measure import copy_bandwidth
from model.errors import UserError, first_line

NODES = (1, 8, 16, 32, 64)
CONTEXTS = {"cuda": (1024, 4096, 15_000), "cpu": (64, 256)}
REPEATS = {"cuda": 50, "cpu": 5}
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
"""Of the largest difference from the reference."""
Attend = Callable[[], torch.Tensor]
"""One call over a case: [T, H, D]."""


@dataclass(frozen=True)
class Case:
    """New rows over a prefix; all tensors on the device."""

    query: torch.Tensor
    """[T, H, D]."""
    key: torch.Tensor
    """[T, K, D], as `value`."""
    value: torch.Tensor
    cache: torch.Tensor
    """[2, P, K, D]."""
    context: int
    mask: torch.Tensor
    """bool [T, T]."""

    @property
    def scaling(self) -> float:
        return self.query.shape[-1] ** -0.5

    @property
    def is_chain(self) -> bool:
        rows = self.mask.shape[0]
        return torch.equal(self.mask, torch.ones_like(self.mask).tril()) or rows == 1

    @property
    def bytes_read(self) -> int:
        """Keys and values once."""
        rows = self.context + len(self.key)
        return 2 * rows * self.key.shape[1] * self.key.shape[2] * self.key.element_size()

    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of prefix and new rows, [1, K, L, D]."""
        whole = []
        for cached, new in ((self.cache[0], self.key), (self.cache[1], self.value)):
            whole.append(torch.cat([cached[: self.context], new]).transpose(0, 1)[None])
        return whole[0].contiguous(), whole[1].contiguous()

    def allowed(self) -> torch.Tensor:
        """bool [T, L]: what each row attends."""
        before = self.mask.new_ones(len(self.mask), self.context)
        return torch.cat([before, self.mask], dim=1)


def case(heads: tuple[int, int, int], rows: int, context: int, device: torch.device) -> Case:
    """A random tree of so many rows; `heads` are query heads, key heads, head dimension."""
    query_heads, kv_heads, dim = heads
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(rows + context)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=device, dtype=dtype)

    random, mask = Random(rows), torch.eye(rows, dtype=torch.bool)
    for node in range(1, rows):
        mask[node] |= mask[random.randrange(max(0, node - 3), node)]
    return Case(
        query=noise(rows, query_heads, dim),
        key=noise(rows, kv_heads, dim),
        value=noise(rows, kv_heads, dim),
        cache=noise(2, context + 256, kv_heads, dim),
        context=context,
        mask=mask.to(device),
    )


# --- who can do it --------------------------------------------------------------------------------
def ours(of: Case) -> Attend:
    start = torch.tensor([of.context], device=of.query.device)
    return lambda: tree_attention(
        of.query, of.key, of.value, of.cache, start, of.mask, of.scaling, store=False
    )


def sdpa(of: Case) -> Attend:
    keys, values = of.rows()
    query, allowed = of.query.transpose(0, 1)[None], of.allowed()

    def attend() -> torch.Tensor:
        out = F.scaled_dot_product_attention(query, keys, values, allowed, enable_gqa=True)
        return out[0].transpose(0, 1)

    return attend


def flex(of: Case) -> Attend:
    """Its block mask is made once, which a step could not do."""
    keys, values = of.rows()
    query, allowed = of.query.transpose(0, 1)[None], of.allowed()
    rows, columns = allowed.shape
    blocks = create_block_mask(
        lambda batch, head, row, column: allowed[row, column],
        *(None, None, rows, columns),
        device=str(query.device),
    )
    run = torch.compile(flex_attention, dynamic=False) if query.is_cuda else flex_attention

    def attend() -> torch.Tensor:
        out = run(query, keys, values, block_mask=blocks, enable_gqa=True)
        assert isinstance(out, torch.Tensor)
        return out[0].transpose(0, 1)

    return attend


def flashinfer(of: Case) -> Attend:
    """Raises ImportError where it is not installed."""
    from flashinfer import single_prefill_with_kv_cache

    keys, values = (whole[0].transpose(0, 1).contiguous() for whole in of.rows())
    allowed = of.allowed()
    return lambda: single_prefill_with_kv_cache(of.query, keys, values, custom_mask=allowed)


def flash_attn(of: Case) -> Attend:
    """Raises ImportError where it is not installed, UserError for a tree: it knows chains alone."""
    from flash_attn import flash_attn_func

    if not of.is_chain:
        raise UserError("it has no mask for trees")
    keys, values = (whole.transpose(1, 2).contiguous() for whole in of.rows())
    return lambda: flash_attn_func(of.query[None], keys, values, causal=True)[0]


WAYS: dict[str, Callable[[Case], Attend]] = {
    "ours": ours,
    "sdpa": sdpa,
    "flex": flex,
    "flashinfer": flashinfer,
    "flash_attn": flash_attn,
}


# --- measuring ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Timed:
    """One way over one case: microseconds, or why there are none."""

    microseconds: float | None
    why_not: str = ""


def timed(of: Case) -> dict[str, Timed]:
    """Every way, one after another in every round, so that all see the same machine."""
    expected = reference(
        of.query, of.key, of.value, of.cache, torch.tensor([of.context], device=of.query.device),
        of.mask, of.scaling,
    )  # fmt: skip
    found: dict[str, Timed] = {}
    calls: dict[str, Attend] = {}
    for name, make in WAYS.items():
        try:
            call = make(of)
            difference = (call().float() - expected.float()).abs().max().item()
        except ImportError:
            found[name] = Timed(None, "not installed")
            continue
        except Exception as error:  # each library raises types of its own
            found[name] = Timed(None, first_line(error))
            continue
        if difference > TOLERANCE[of.query.dtype]:
            found[name] = Timed(None, f"differs by {difference:.3g}")
        else:
            calls[name] = call
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS[of.query.device.type]):
        for name, call in calls.items():
            seconds[name].append(one_call(call, of.query.device))
    for name, times in seconds.items():
        found[name] = Timed(1e6 * median(times))
    return {name: found[name] for name in WAYS}


def one_call(call: Attend, device: torch.device) -> float:
    """Seconds on the device."""
    if device.type != "cuda":
        begun = perf_counter()
        call()
        return perf_counter() - begun
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def row(of: Case, found: dict[str, Timed], bandwidth: float) -> list[str]:
    """A line of the table; the fastest is named."""
    known = {name: t.microseconds for name, t in found.items() if t.microseconds is not None}
    cells = [UNKNOWN if t.microseconds is None else f"{t.microseconds:.0f}" for t in found.values()]
    fastest = min(known, key=lambda name: known[name])
    by_bytes = f"{1e6 * of.bytes_read / bandwidth:.1f}"
    return [str(of.context), str(len(of.query)), by_bytes, *cells, fastest]


def main() -> int:
    parser = Parser(description=summary(__doc__))
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen3-8b" if has_gpu else "tiny")
    parser.add_argument("--device", default="cuda" if has_gpu else "cpu")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    device = torch.device(args.device)
    config = SHAPES[args.shape]()
    heads = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    bandwidth = copy_bandwidth(device)
    rows, data = [], []
    reasons: dict[str, None] = {}
    for context in CONTEXTS[device.type]:
        for nodes in NODES:
            of = case(heads, nodes, context, device)
            with torch.inference_mode():
                found = timed(of)
            rows.append(row(of, found, bandwidth))
            print("  ".join(rows[-1]), file=sys.stderr)
            times = {name: t.microseconds for name, t in found.items()}
            data.append({"context": context, "nodes": nodes, "microseconds": times})
            reasons |= {f"{name}: {t.why_not}": None for name, t in found.items() if t.why_not}
    title = f"microseconds of one layer's attention, {args.shape}"
    header = ("context", "n", "bytes", *WAYS, "fastest")
    print(Table(title, header, rows).text())
    for reason in reasons:
        print(f"note: {reason}")
    if args.out:
        write_atomically(args.out, json.dumps({"shape": args.shape, "rows": data}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)()
