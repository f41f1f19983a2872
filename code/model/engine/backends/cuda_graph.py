"""The forward of one sequence's draft with every length on the device: one CUDA graph per bucket.

All inputs of a step lie in one host buffer that is copied at once. A bucket's graph then moves the
cache rows that the previous step accepted, runs the model and picks the target's tokens. A graph is
captured when it is first wanted and replayed from then on, so nothing of a step is launched from
Python. A new graph is compared with the eager forward and refused where it differs. On a CPU the
same code runs operation by operation: so it is tested.

Shapes: B rows of a bucket, V vocabulary, A feature layers, H hidden size, K key/value heads,
D head dimension.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.engine.backends import Backend, BackendFailed
from model.engine.backends.eager import Eager, uncompiled
from model.engine.cache import KVCache
from model.engine.device.capture import StepBuffer, capture
from model.engine.device.draw import draw
from model.engine.device.tree_attention import tree_attention, uses_kernel
from model.engine.forward import Output, Picked, Segment, Wanted
from model.engine.noise import exponential
from model.engine.shape import Shape
from model.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
MOST_ROWS = BUCKETS[-1]
"""A cache keeps so many rows free behind the last usable one: a bucket's unused rows fall there."""
SLOT = 0
"""The cache slot that graphs serve: one sequence at a time."""
MOVES = 32
"""The longest accepted path a graph moves: 5 MB for Qwen3-8B, one thousandth of a step. Longer
ones are rare and are moved at once."""
PROBE = 300
"""Cached rows behind which new graphs are compared."""
TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""How far a row of a new graph's results may be from the eager one, relative to its length:
bfloat16 keeps 8 bits, and fused operations round at other places."""
SCORE_TOLERANCE = 1e-3
"""By so much a drawn token's score may miss the best one: a kernel's logarithms round otherwise."""
KV_ROWS = "kv_rows"
"""The buffer by which an attention module knows its part of the cache."""


@dataclass(frozen=True)
class GraphKey:
    """What a graph is captured for."""

    rows: int
    feature_layers: tuple[int, ...] = ()
    target_topk: int = 0
    draws: bool = False


@dataclass
class DeviceStep:
    """What attention needs of a step whose lengths lie on the device."""

    start: torch.Tensor
    mask: torch.Tensor
    features: dict[int, torch.Tensor] = field(default_factory=dict)

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """What `packed_rows` hands over: query [1, H, B, D] -> [1, B, H, D]."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        cache = getattr(module, KV_ROWS)
        return tree_attention(q, k, v, cache, self.start, self.mask, scaling, store=True)[None]


@dataclass(frozen=True)
class Move:
    """Cache rows `start + path` that become `start...`."""

    start: int
    path: list[int]


def bucket(rows: int) -> int:
    """The smallest bucket that holds so many rows."""
    return next(size for size in BUCKETS if size >= rows)


def ancestor_words(mask_NN: np.ndarray | None, rows: int) -> np.ndarray:
    """Which new rows each new row attends, as 128 bits in two int64 words; no mask is a chain."""
    wide = np.zeros((rows, MOST_ROWS), dtype=bool)
    wide[:, :rows] = np.tri(rows, dtype=bool) if mask_NN is None else mask_NN
    return np.packbits(wide, axis=1, bitorder="little").view("<i8").reshape(-1)


def _random_tree(start: int, rows: int, vocab_size: int) -> Segment:
    """A draft of random tokens behind `start` rows; equal calls give equal trees."""
    random = Random(rows)
    tokens = [random.randrange(vocab_size) for _ in range(rows)]
    mask, depths = torch.eye(rows, dtype=torch.bool), [0]
    for node in range(1, rows):
        parent = random.randrange(max(0, node - 3), node)
        mask[node] |= mask[parent]
        depths.append(depths[parent] + 1)
    return Segment(SLOT, start, tokens, [start + depth for depth in depths], mask)


class CudaGraph(Backend):
    spare_rows = MOST_ROWS
    growth = 4096  # every new cache means new graphs
    rank = 2
    fused = False

    @classmethod
    def unsupported(cls, shape: Shape) -> str:
        if shape.windowed:
            return "it attends everything, the model a sliding window"
        if len(shape.devices) > 1:
            return "it runs on one device"
        (device,) = shape.devices
        # without the kernel a graph would attend the whole cache in every step
        if device.type == "cuda" and not uses_kernel(device, shape.head_dim):
            return f"Triton has no kernel for heads of size {shape.head_dim} here"
        return ""

    @classmethod
    def suits(cls, shape: Shape) -> bool:
        on_gpu = all(device.type == "cuda" for device in shape.devices)
        return on_gpu and not cls.unsupported(shape)

    def __init__(self, network: PreTrainedModel, cache: KVCache, shape: Shape) -> None:
        super().__init__(network, cache, shape)
        device = cache.data.device
        self._reference = Eager(network, cache, shape)
        self._is_captured = device.type == "cuda"
        self._inputs = StepBuffer(
            {
                "start": 1,
                "temperature": 1,
                "move_start": 1,
                "move_path": MOVES,
                "ids": MOST_ROWS,
                "positions": MOST_ROWS,
                "keys": MOST_ROWS,
                "ancestors": 2 * MOST_ROWS,
            },
            device,
        )
        self._graphs: dict[GraphKey, tuple[torch.cuda.CUDAGraph | None, Output | None]] = {}
        self._pool: object = None
        self._pending: Move | None = None
        self._bits = torch.arange(64, device=device)
        self._order = torch.arange(MOVES, device=device)
        self._seconds = 0.0
        for module in network.modules():
            if hasattr(module, "layer_idx") and hasattr(module, "scaling"):
                layer: Any = module.layer_idx
                rows = cache.data[layer][:, SLOT]
                module.register_buffer(KV_ROWS, rows, persistent=False)

    # --- the protocol -----------------------------------------------------------------------------
    def takes(self, segments: list[Segment], wanted: Wanted) -> bool:
        """A decoding step of one sequence in the captured slot, within the largest bucket."""
        if not wanted.is_step or len(segments) != 1:
            return False
        return segments[0].slot == SLOT and len(segments[0]) <= MOST_ROWS

    def run(self, segments: list[Segment], wanted: Wanted) -> Output:
        """Launch the step; a graph of a new kind is captured and compared first."""
        (segment,) = segments
        key = GraphKey(
            bucket(len(segment)), wanted.feature_layers, wanted.target_topk, wanted.draw is not None
        )
        is_new = key not in self._graphs
        begun = time.perf_counter()
        try:
            output = self._launch(key, segment, wanted)
        except (torch.OutOfMemoryError, UserError):
            raise
        except Exception as error:  # Triton, Inductor and CUDA each raise types of their own
            raise BackendFailed(f"{type(error).__name__}: {first_line(error)}") from error
        if is_new:
            self._seconds += time.perf_counter() - begun
            if difference := self._differs(key, segment, output, wanted):
                raise BackendFailed(difference)
            output = self._launch(key, segment, wanted)  # comparing wrote over a graph's output
        return output.last_row() if wanted.last_only else output

    def keep(self, slot: int, start: int, path: list[int]) -> None:
        """The next step's graph moves the rows; other slots' and long paths are moved at once."""
        if slot != SLOT:
            self.cache.keep(slot, start, path)
            return
        if all(node == place for place, node in enumerate(path)):
            return
        self.flush()
        self._pending = Move(start, path)
        if len(path) > MOVES:
            self.flush()

    def flush(self) -> None:
        if self._pending:
            self.cache.keep(SLOT, self._pending.start, self._pending.path)
            self._pending = None

    def probes(self, nodes: int) -> list[Segment]:
        """A step a bucket, the largest first: memory is shared. Cache, tokens and trees are noise:
        what a graph is compared on should look like data.
        """
        start = min(PROBE, self.cache.positions - 2 * MOST_ROWS)
        self.cache.data[:, :, SLOT, :start].normal_()
        largest = bucket(min(nodes, MOST_ROWS))
        sizes = [size for size in reversed(BUCKETS) if size <= largest]
        return [_random_tree(start, size, self.shape.vocab_size) for size in sizes]

    def close(self) -> None:
        self._graphs.clear()
        for module in self.network.modules():
            module._buffers.pop(KV_ROWS, None)

    @property
    def recording_seconds(self) -> float:
        return self._seconds

    @property
    def recorded(self) -> list[GraphKey]:
        """What there are graphs of, in the order they were made."""
        return list(self._graphs)

    # --- a step -----------------------------------------------------------------------------------
    def _launch(self, key: GraphKey, segment: Segment, wanted: Wanted) -> Output:
        is_new = key not in self._graphs
        if key.rows == 1 or is_new:  # one row needs no moves; capturing would make them twice
            self.flush()
        self._fill(key.rows, segment, wanted)
        self._inputs.send()
        if is_new:
            self._graphs[key] = self._captured(key) if self._is_captured else (None, None)
        graph, output = self._graphs[key]
        if graph is None or output is None:
            output = self.body(key)
        else:
            self._pool = self._pool or graph.pool()
            graph.replay()
        return output.first_rows(len(segment))

    def _captured(self, key: GraphKey) -> tuple[torch.cuda.CUDAGraph, Output]:
        return capture(lambda: self.body(key), self.cache.data.device, self._pool)

    def _fill(self, rows: int, segment: Segment, wanted: Wanted) -> None:
        """Write a step's inputs into the host buffer; unused rows are tokens 0 at the start."""
        self._inputs.wait()
        host, used = self._inputs.host, len(segment)
        host["start"][0] = segment.start
        host["ids"][:used], host["ids"][used:rows] = segment.tokens, 0
        host["positions"][:used] = segment.positions
        host["positions"][used:rows] = segment.start
        mask = None if segment.mask is None else segment.mask.numpy()
        host["ancestors"][: 2 * used] = ancestor_words(mask, used)
        host["ancestors"][2 * used : 2 * rows] = 0
        if wanted.draw:
            host["keys"][:used] = wanted.draw.keys
            host["temperature"].view(np.float64)[0] = wanted.draw.temperature
        move = self._pending or Move(segment.start, [])
        self._pending = None
        host["move_start"][0] = move.start
        host["move_path"][:] = np.arange(MOVES)
        host["move_path"][: len(move.path)] = move.path

    def body(self, key: GraphKey) -> Output:
        """What a graph holds: the moves, the forward, the picks. Reads the device buffer alone."""
        given, rows = self._inputs.device, key.rows
        if rows > 1:
            self._move_rows(given)
        words = given["ancestors"][: 2 * rows].view(rows, 2, 1)
        bits = ((words >> self._bits) & 1).bool()
        mask = bits.reshape(rows, MOST_ROWS)[:, :rows].contiguous()
        step = DeviceStep(given["start"], mask)
        with contextlib.nullcontext() if self.fused else uncompiled():
            result = self.network(
                input_ids=given["ids"][None, :rows],
                position_ids=given["positions"][None, :rows],
                use_cache=False,
                step=step,
            )
        logits = result.logits[0]
        features = None
        if key.feature_layers:
            streams = [step.features[layer] for layer in key.feature_layers]
            features = torch.cat(streams, dim=-1)
        return Output(logits, features, self._pick(key, logits, given))

    def _move_rows(self, given: dict[str, torch.Tensor]) -> None:
        """The accepted rows, copied out and then in: source and destination overlap."""
        rows_of_slot = self.cache.data[:, :, SLOT]
        kept = rows_of_slot.index_select(2, given["move_start"] + given["move_path"])
        rows_of_slot.index_copy_(2, given["move_start"] + self._order, kept)

    def _pick(self, key: GraphKey, logits: torch.Tensor, given: dict[str, torch.Tensor]) -> Picked:
        drawn = None
        if key.draws:
            temperature = given["temperature"].view(torch.float64)
            drawn = draw(logits, given["keys"][: key.rows], temperature)
        return Picked.pack(logits, logits.argmax(-1), drawn, key.target_topk)

    # --- a new graph ------------------------------------------------------------------------------
    def _differs(self, key: GraphKey, segment: Segment, output: Output, wanted: Wanted) -> str:
        """What of a new graph's results is not the eager forward's; empty where all is.

        Compared twice: as launched, and with accepted rows to be moved first. The cache is left as
        the launch made it.
        """
        if why := self._picks_wrong(output, wanted):
            return why
        rows = slice(segment.start, segment.start + len(segment))
        stored = self.cache.data[:, :, SLOT, rows]
        launched = stored.clone()
        why = self._unlike_eager(segment, output, launched, stored, wanted)
        stored.copy_(launched)
        if not why and key.rows > 1:
            why = self._moves_wrong(key, segment, wanted)
        return why

    def _moves_wrong(self, key: GraphKey, segment: Segment, wanted: Wanted) -> str:
        """The same of a step that begins with a move of rows just before the segment."""
        first = max(0, segment.start - MOVES)
        path = list(range(0, segment.start - first, 2))
        if len(path) < 2:
            return ""
        move = Move(first, path)
        touched = self.cache.data[:, :, SLOT, first : segment.start + len(segment)]
        before = touched.clone()
        self._pending = move
        output = self._launch(key, segment, wanted)
        moved = touched.clone()
        touched.copy_(before)
        self.cache.keep(SLOT, first, path)
        why = self._unlike_eager(segment, output, moved, touched, wanted)
        touched.copy_(before)
        return f"after a move of accepted rows {why}" if why else ""

    def _unlike_eager(
        self,
        segment: Segment,
        output: Output,
        rows_of_graph: torch.Tensor,
        rows: torch.Tensor,
        wanted: Wanted,
    ) -> str:
        """Run the segment eagerly, which writes into `rows` of the cache, and compare every row."""
        eager = self._reference.run([segment], Wanted(feature_layers=wanted.feature_layers))
        pairs = {
            "logits": (output.logits, eager.logits),
            "cached rows": (rows_of_graph, rows),
            "features": (output.features, eager.features),
        }
        for what, (result, expected) in pairs.items():
            if result is None or expected is None:
                continue
            difference = _largest_row_difference(result, expected)
            if not difference <= TOLERANCE[self.network.dtype]:
                return f"{what} differ by {difference:.1%}"
        return ""

    def _picks_wrong(self, output: Output, wanted: Wanted) -> str:
        """Are the picked tokens those of the graph's own logits?"""
        picked, logits = output.picked, output.logits.float()
        assert picked is not None
        if not torch.equal(picked.argmax, output.logits.argmax(-1)):
            return "picked tokens are not the logits' largest"
        if wanted.target_topk:
            best = logits.topk(wanted.target_topk, dim=-1).values
            if not torch.equal(logits.gather(1, picked.target_topk), best):
                return "the likeliest tokens are not the logits' largest"
        if wanted.draw:
            keys = torch.tensor(list(wanted.draw.keys), device=logits.device)
            noise = exponential(keys, logits.shape[-1])
            scores = logits / wanted.draw.temperature - noise.log()
            lost = scores.max(-1).values - scores.gather(1, picked.drawn[:, None])[:, 0]
            if not (lost <= SCORE_TOLERANCE).all():
                return "drawn tokens are not those of their noise"
        return ""


def _largest_row_difference(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Of all rows [..., n]: the length of the difference over that of the row."""
    difference = (result - expected).float().norm(dim=-1)
    length = expected.float().norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return (difference / length).max().item()


BACKEND = CudaGraph
