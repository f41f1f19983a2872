"""Tree attention beside what else can do it: microseconds of one layer's attention by shape.

    python bench/attention.py [--shape qwen3-8b] [--out attention.json] [--save]

n new rows, a random tree, over a cached prefix, as a step of the engine attends them, by every
launch of `CANDIDATES`: our kernel's settings, and FlexAttention (compiled on a GPU). Beside it what
the engine cannot use, for it must know lengths ahead: PyTorch's scaled_dot_product_attention under
a mask, and where they are installed FlashInfer and, for chains alone, FlashAttention; these do not
store the new rows. Who differs from the reference is named and not timed. `bytes` is what reading
keys and values once takes at the bandwidth of a copy. On a GPU 32 layers, each with a cache of its
own, attend one after another in one CUDA graph, as in a step: no launch from Python is timed, and
no keys are left in the GPU's own cache from the call before.

`--save` writes, for each n, the launch that is fastest over all context lengths into
`data/attention`: from then on engines of CUDA graphs use it on this kind of card. The default is
left only for one that takes at least 3 % less. On a CPU, where our kernel is PyTorch's operator,
it runs on small shapes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean, median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import json

import torch
import torch.nn.functional as F
from random_models import SHAPES
from tqdm import tqdm

from evaluation.command import Parser, run_command, summary
from evaluation.records.writer import write_atomically
from evaluation.report.formatting import UNKNOWN, Table
from evaluation.running.build import checked_device
from model.engine.backends.cuda_graph import MOST_NODES
from model.engine.device import attention_table
from model.engine.device.attention_table import Kind
from model.engine.device.capture import capture
from model.engine.device.launch import CANDIDATES, DEFAULT, Launch
from model.engine.device.packed_attention import packed_attention
from model.engine.device.tree_attention import reference, uses_kernel
from model.engine.measure import copy_bandwidth
from model.errors import UserError, first_line

NODES = (1, 8, 16, 32, 64)
CONTEXTS = {"cuda": (1024, 4096, 15_000), "cpu": (64, 256)}
LAYERS = {"cuda": 32, "cpu": 1}
POSITIONS = {"cuda": 16_384, "cpu": 512}
"""Of the cache, whatever the context, as in an engine."""
REPEATS = {"cuda": 20, "cpu": 3}
REPLAYS = 3
"""Of a graph, timed together."""
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
"""Of the difference of a row from the reference's, relative to its length."""
GAIN = 0.97
"""Of the default's time: what another launch must fall below."""
Attend = Callable[[int], torch.Tensor]
"""A case's attention over the cache of a layer: [T, H, D]."""


@dataclass(frozen=True)
class Case:
    """New rows over a prefix; all tensors on the device."""

    query: torch.Tensor
    """[T, H, D]."""
    key: torch.Tensor
    """[T, K, D], as `value`."""
    value: torch.Tensor
    cache: torch.Tensor
    """[layers, 2, P, K, D]."""
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

    def rows(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each layer, keys and values of prefix and new rows, [L, K, D]."""
        layers = []
        for keys, values in self.cache[:, :, : self.context]:
            layers.append((torch.cat([keys, self.key]), torch.cat([values, self.value])))
        return layers

    def allowed(self) -> torch.Tensor:
        """bool [T, L]: what each row attends."""
        before = self.mask.new_ones(len(self.mask), self.context)
        return torch.cat([before, self.mask], dim=1)


def dtype_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def case(heads: tuple[int, int, int], rows: int, context: int, device: torch.device) -> Case:
    """A random tree of so many rows; `heads` are query heads, key heads, head dimension."""
    query_heads, kv_heads, dim = heads
    dtype = dtype_on(device)
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
        cache=noise(LAYERS[device.type], 2, POSITIONS[device.type], kv_heads, dim),
        context=context,
        mask=mask.to(device),
    )


# --- who can do it --------------------------------------------------------------------------------
def launched(launch: Launch) -> Callable[[Case], Attend]:
    """The engine's own operator."""

    def make(of: Case) -> Attend:
        rows, device = len(of.query), of.query.device
        if launch != DEFAULT and launch.kernel == DEFAULT.kernel and not uses_kernel(device):
            raise UserError("a setting of the kernel, which only a GPU runs")
        # as a graph has them: two sequences, of which the second has no rows; a mask of 128 columns
        starts = torch.tensor([of.context, 0], device=device)
        slots = torch.tensor([0, 0], device=device)
        first_rows = torch.tensor([0, rows, rows], device=device)
        mask = F.pad(of.mask, (0, MOST_NODES - rows))
        layout, packed = (starts, slots, first_rows), launch.packed()
        return lambda layer: packed_attention(
            *(of.query, of.key, of.value, of.cache[layer, :, None]),
            *(*layout, mask, of.scaling, packed),
        )

    return make


def sdpa(of: Case) -> Attend:
    layers = [[x.transpose(0, 1)[None].contiguous() for x in rows] for rows in of.rows()]
    query, allowed = of.query.transpose(0, 1)[None], of.allowed()

    def attend(layer: int) -> torch.Tensor:
        keys, values = layers[layer]
        out = F.scaled_dot_product_attention(query, keys, values, allowed, enable_gqa=True)
        return out[0].transpose(0, 1)

    return attend


def flashinfer(of: Case) -> Attend:
    """Raises ImportError where it is not installed. The mask is packed once for all layers."""
    from flashinfer import single_prefill_with_kv_cache
    from flashinfer.quantization import packbits

    layers, packed = of.rows(), packbits(of.allowed().flatten(), bitorder="little")
    return lambda layer: single_prefill_with_kv_cache(
        of.query, *layers[layer], packed_custom_mask=packed
    )


def flash_attn(of: Case) -> Attend:
    """Raises ImportError where it is not installed, UserError for a tree: it knows chains alone."""
    from flash_attn import flash_attn_func

    if not of.is_chain:
        raise UserError("it has no mask for trees")
    layers = of.rows()
    return lambda layer: flash_attn_func(
        of.query[None], *(x[None] for x in layers[layer]), causal=True
    )[0]


WAYS: dict[str, Callable[[Case], Attend]] = {
    **{str(launch): launched(launch) for launch in CANDIDATES},
    "sdpa": sdpa,
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
    device = of.query.device
    start = torch.tensor([of.context], device=device)
    expected = reference(of.query, of.key, of.value, of.cache[0], start, of.mask, of.scaling)
    found: dict[str, Timed] = {}
    runs: dict[str, Callable[[], object]] = {}
    for name, make in WAYS.items():
        try:
            attend = make(of)
            difference = difference_of_rows(attend(0), expected)
            if difference > TOLERANCE[of.query.dtype]:
                found[name] = Timed(None, f"differs by {difference:.1%}")
            else:
                runs[name] = over_layers(attend, len(of.cache), device)
        except ImportError:
            found[name] = Timed(None, "not installed")
        except Exception as error:  # each library raises types of its own
            found[name] = Timed(None, first_line(error))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS[device.type]):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run, device) / len(of.cache))
    for name, times in seconds.items():
        found[name] = Timed(1e6 * median(times))
    return {name: found[name] for name in WAYS}


def difference_of_rows(out: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, relative to the row's length."""
    rows, expected_rows = out.float().flatten(1), expected.float().flatten(1)
    return ((rows - expected_rows).norm(dim=1) / expected_rows.norm(dim=1)).max().item()


def over_layers(attend: Attend, layers: int, device: torch.device) -> Callable[[], object]:
    """All layers' attention, on a GPU as one graph."""

    def run() -> list[torch.Tensor]:
        return [attend(layer) for layer in range(layers)]

    if device.type != "cuda":
        return run
    graph, _ = capture(run, device)
    return graph.replay


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Of one run, on the device."""
    if device.type != "cuda":
        begun = perf_counter()
        run()
        return perf_counter() - begun
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPLAYS):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / REPLAYS


def table(context: int, by_bytes: list[float], found: list[dict[str, Timed]]) -> Table:
    """Of one context length: a row for each way that was timed at all, the fastest marked."""
    rows = [["bytes", *(f"{microseconds:.1f} " for microseconds in by_bytes)]]
    for name in WAYS:
        if any(of_case[name].microseconds is not None for of_case in found):
            rows.append([name, *(cell(name, of_case) for of_case in found)])
    return Table("", (f"{context} tokens", *(str(nodes) for nodes in NODES)), rows)


def cell(name: str, found: dict[str, Timed]) -> str:
    own = found[name].microseconds
    if own is None:
        return f"{UNKNOWN} "
    least = min(each.microseconds for each in found.values() if each.microseconds is not None)
    return f"{own:.1f}{'*' if own == least else ' '}"


def fastest_launch(of_contexts: list[dict[str, Timed]]) -> Launch:
    """Over all context lengths: each counts by its share of what the default takes there."""
    best, least = DEFAULT, GAIN
    for launch in CANDIDATES:
        shares = []
        for found in of_contexts:
            own, default = (found[str(each)].microseconds for each in (launch, DEFAULT))
            if own is None or default is None:
                break
            shares.append(own / default)
        if len(shares) == len(of_contexts) and mean(shares) < least:
            best, least = launch, mean(shares)
    return best


def saved(kind: Kind, by_rows: dict[int, list[dict[str, Timed]]]) -> Path:
    """The table of this card."""
    launches = {rows: fastest_launch(found) for rows, found in by_rows.items()}
    versions = {"torch": torch.__version__, "made": time.strftime("%Y-%m-%d")}
    return attention_table.save(kind, launches, versions)


def untimed(by_rows: dict[int, list[dict[str, Timed]]]) -> dict[str, list[str]]:
    """Who was not timed, by why."""
    reasons: dict[str, list[str]] = {}
    for of_contexts in by_rows.values():
        for found in of_contexts:
            for name, of_way in found.items():
                names = reasons.setdefault(of_way.why_not, [])
                if name not in names:
                    names.append(name)
    reasons.pop("", None)
    return reasons


def as_data(by_rows: dict[int, list[dict[str, Timed]]], contexts: Sequence[int]) -> list[dict]:
    """The figures for a file."""
    data = []
    for nodes, of_contexts in by_rows.items():
        for context, found in zip(contexts, of_contexts, strict=True):
            times = {name: of_way.microseconds for name, of_way in found.items()}
            data.append({"context": context, "nodes": nodes, "microseconds": times})
    return data


def main() -> int:
    parser = Parser(description=summary(__doc__))
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen3-8b" if has_gpu else "tiny")
    parser.add_argument("--device", default="cuda" if has_gpu else "cpu")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument(
        "--save", action="store_true", help="have engines on this card use what is fastest"
    )
    args = parser.parse_args()
    device = checked_device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    config = SHAPES[args.shape]()
    heads = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    bandwidth = copy_bandwidth(device)
    by_rows: dict[int, list[dict[str, Timed]]] = {nodes: [] for nodes in NODES}
    print(f"microseconds of one layer's attention by new rows, {args.shape}; * is the fastest")
    for context in CONTEXTS[device.type]:
        by_bytes, of_context = [], []
        for nodes in tqdm(NODES, unit="case", desc=f"{context} tokens", leave=False):
            of = case(heads, nodes, context, device)  # gigabytes: one at a time
            by_bytes.append(1e6 * of.bytes_read / bandwidth)
            with torch.inference_mode():
                of_context.append(timed(of))
            by_rows[nodes].append(of_context[-1])
        print()
        print(table(context, by_bytes, of_context).text())
    print()
    for reason, names in untimed(by_rows).items():
        print(f"note: {reason}: {', '.join(names)}")
    if args.out:
        figures = {"shape": args.shape, "rows": as_data(by_rows, CONTEXTS[device.type])}
        write_atomically(args.out, json.dumps(figures, indent=1) + "\n")
    if args.save:
        kind = Kind(attention_table.card_of(device), *heads, dtype_on(device))
        print(f"written: {saved(kind, by_rows)}")
    return 0


if __name__ == "__main__":
    run_command(main)()
