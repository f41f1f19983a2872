"""The forward of one step's drafts with every length on the device: one CUDA graph per bucket.

All inputs of a step lie in one host buffer that is copied at once: each sequence's cached length,
slot and first row, and every row's token, position, ancestors and noise key. A bucket's graph then
runs the model and picks the target's tokens, for any number of sequences; where accepted rows are
out of place, a graph of its own moves them first. A graph is captured when it is first wanted and
replayed from then on, so nothing of a step is launched from Python. A new graph is compared with
the eager forward and refused where it differs. On a CPU the same code runs operation by operation:
so it is tested.

Shapes: B rows of a bucket, S sequences, V vocabulary, A feature layers, H hidden size,
K key/value heads, D head dimension.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.engine.backends import Backend, BackendFailed
from model.engine.backends.eager import Eager, uncompiled
from model.engine.cache import KVCache
from model.engine.device import attention_table
from model.engine.device.attention_table import AttentionTable, Kind
from model.engine.device.capture import Captures, StepBuffer
from model.engine.device.draw import draw
from model.engine.device.launch import DEFAULT
from model.engine.device.packed_attention import packed_attention
from model.engine.device.tree_attention import uses_kernel
from model.engine.forward import Output, Picked, Segment, Wanted
from model.engine.noise import exponential
from model.engine.shape import Shape
from model.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
MOST_ROWS = BUCKETS[-1]
MOST_NODES = 128
"""Of one sequence's draft: its rows' ancestors are so many bits."""
MOVES = 32
"""Accepted rows that a graph moves for one sequence: 5 MB for Qwen3-8B, one thousandth of a step.
More are rare and are moved at once."""
MOVING_SEQUENCES = 4
"""For several sequences it moves as many as so many of them may have."""
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
WORDS = MOST_NODES // 64
"""Of a row's ancestors."""


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

    starts: torch.Tensor
    slots: torch.Tensor
    first_rows: torch.Tensor
    mask: torch.Tensor
    launch: torch.Tensor
    """A packed `Launch`, on the CPU."""
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
        layout = (self.starts, self.slots, self.first_rows)
        out = packed_attention(q, k, v, cache, *layout, self.mask, scaling, self.launch)
        return out[None]


@dataclass(frozen=True)
class Move:
    """Rows `start + path` of a cache slot that become `start...`."""

    slot: int
    start: int
    path: list[int]

    def rows(self) -> list[tuple[int, int]]:
        """Every row that is out of place, and its place."""
        return [
            (self.start + node, self.start + i) for i, node in enumerate(self.path) if node != i
        ]


def bucket(rows: int) -> int:
    """The smallest bucket that holds so many rows."""
    return next(size for size in BUCKETS if size >= rows)


def ancestor_words(mask_NN: np.ndarray | None, rows: int) -> np.ndarray:
    """Which new rows each new row attends, as 128 bits in two int64 words; no mask is a chain."""
    wide = np.zeros((rows, MOST_NODES), dtype=bool)
    wide[:, :rows] = np.tri(rows, dtype=bool) if mask_NN is None else mask_NN
    return np.packbits(wide, axis=1, bitorder="little").view("<i8").reshape(-1)


def _random_tree(slot: int, start: int, rows: int, vocab_size: int) -> Segment:
    """A draft of random tokens behind `start` rows; equal calls give equal trees."""
    random = Random(rows)
    tokens = [random.randrange(vocab_size) for _ in range(rows)]
    mask, depths = torch.eye(rows, dtype=torch.bool), [0]
    for node in range(1, rows):
        parent = random.randrange(max(0, node - 3), node)
        mask[node] |= mask[parent]
        depths.append(depths[parent] + 1)
    return Segment(slot, start, tokens, [start + depth for depth in depths], mask)


class CudaGraph(Backend):
    spare_rows = 1  # where moves of nothing go
    most_rows = MOST_ROWS
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
        # the kernel counts sequences in powers of two
        self._sequences = 1 << max(1, (cache.slots - 1).bit_length())
        self._moves = MOVES * min(cache.slots, MOVING_SEQUENCES)
        self._inputs = StepBuffer(
            {
                "starts": self._sequences,
                "slots": self._sequences,
                "first_rows": self._sequences + 1,
                "temperature": 1,
                "move_from": self._moves,
                "move_to": self._moves,
                "ids": MOST_ROWS,
                "positions": MOST_ROWS,
                "keys": MOST_ROWS,
                "ancestors": WORDS * MOST_ROWS,
            },
            device,
        )
        self._graphs: dict[GraphKey, tuple[torch.cuda.CUDAGraph | None, Output | None]] = {}
        self._attention = self._measured_attention()
        self._mover: Callable[[], None] | None = None
        self._captures = Captures(device)
        self._pending: list[Move] = []
        self._bits = torch.arange(64, device=device)
        self._seconds = 0.0
        for module in network.modules():
            if hasattr(module, "layer_idx") and hasattr(module, "scaling"):
                layer: Any = module.layer_idx
                module.register_buffer(KV_ROWS, cache.data[layer], persistent=False)

    # --- the protocol -----------------------------------------------------------------------------
    def takes(self, segments: list[Segment], wanted: Wanted) -> bool:
        """A decoding step whose rows fit the largest bucket."""
        if not wanted.is_step or len(segments) > self._sequences:
            return False
        sizes = [len(segment) for segment in segments]
        return max(sizes) <= MOST_NODES and sum(sizes) <= MOST_ROWS

    def run(self, segments: list[Segment], wanted: Wanted) -> Output:
        """Launch the step; a graph of a new kind is captured and compared first."""
        rows = bucket(sum(len(segment) for segment in segments))
        key = GraphKey(rows, wanted.feature_layers, wanted.target_topk, wanted.draw is not None)
        try:
            return self._ran(key, segments, wanted)
        except BackendFailed as failure:
            launch = self._attention.of(rows)
            if launch == DEFAULT:
                raise
            warnings.warn(
                f"attention of {rows} rows by {launch}, as {self._attention.name} has it, does not"
                f" work here ({failure}); going on with {DEFAULT}",
                stacklevel=4,
            )
            self._attention = self._attention.without(rows)
            self._graphs.pop(key, None)
            return self._ran(key, segments, wanted)

    def _ran(self, key: GraphKey, segments: list[Segment], wanted: Wanted) -> Output:
        is_new = key not in self._graphs
        begun = time.perf_counter()
        try:
            output = self._launch(key, segments, wanted)
        except (torch.OutOfMemoryError, UserError, BackendFailed):
            raise
        except Exception as error:  # Triton, Inductor and CUDA each raise types of their own
            raise BackendFailed(f"{type(error).__name__}: {first_line(error)}") from error
        if is_new:
            self._seconds += time.perf_counter() - begun
            if difference := self._differs(segments, output, wanted):
                raise BackendFailed(difference)
            output = self._launch(key, segments, wanted)  # comparing wrote over a graph's output
        return output.last_row() if wanted.last_only else output

    def keep(self, slot: int, start: int, path: list[int]) -> None:
        """The rows are moved before the next step's graph; long paths at once."""
        move = Move(slot, start, path)
        if not move.rows():
            return
        if any(pending.slot == slot for pending in self._pending):
            self.flush()
        self._pending.append(move)
        if sum(len(pending.rows()) for pending in self._pending) > self._moves:
            self.flush()

    def flush(self) -> None:
        for move in self._pending:
            self.cache.keep(move.slot, move.start, move.path)
        self._pending.clear()

    def probes(self, nodes: int) -> list[list[Segment]]:
        """A step a bucket, the largest first: memory is shared. Cache, tokens and trees are noise:
        what a graph is compared on should look like data.
        """
        start = min(PROBE, self.cache.positions - MOST_NODES - self.spare_rows)
        self.cache.data[:, :, :, :start].normal_()
        slots = self.cache.slots
        largest = bucket(min(slots * min(nodes, MOST_NODES), MOST_ROWS))
        sizes = [size for size in reversed(BUCKETS) if size <= largest]
        return [self._probe(size, start) for size in sizes]

    def _probe(self, rows: int, start: int) -> list[Segment]:
        """Trees of so many rows in all, of as many sequences as there may be."""
        sequences = min(rows, self.cache.slots)
        share, more = divmod(rows, sequences)
        segments = []
        for slot in range(sequences):
            own = share + (slot < more)
            segments.append(_random_tree(slot, start - slot, own, self.shape.vocab_size))
        return segments

    def close(self) -> None:
        self._graphs.clear()
        for module in self.network.modules():
            module._buffers.pop(KV_ROWS, None)

    @property
    def attention(self) -> AttentionTable:
        """How it is launched."""
        return self._attention

    def _measured_attention(self) -> AttentionTable:
        shape, device = self.shape, self.cache.data.device
        card = attention_table.card_of(device)
        kind = Kind(card, shape.heads, shape.kv_heads, shape.head_dim, self.network.dtype)
        table = attention_table.load(kind)
        is_compiled = self.fused or device.type != "cuda"
        return table if is_compiled and self.cache.slots == 1 else table.without_flex()

    @property
    def recording_seconds(self) -> float:
        return self._seconds

    @property
    def recorded(self) -> list[GraphKey]:
        """What there are graphs of, in the order they were made."""
        return list(self._graphs)

    # --- a step -----------------------------------------------------------------------------------
    def _launch(self, key: GraphKey, segments: list[Segment], wanted: Wanted) -> Output:
        self._mover = self._mover or self._made_mover()
        used = self._fill(key.rows, segments, wanted)
        is_to_move = self._fill_moves()
        self._inputs.send()
        if is_to_move:
            self._mover()
        if key not in self._graphs:
            self._graphs[key] = self._captured(key)
        graph, output = self._graphs[key]
        if graph is None or output is None:
            output = self.body(key)
        else:
            graph.replay()
        return output.first_rows(used)

    def _captured(self, key: GraphKey) -> tuple[torch.cuda.CUDAGraph | None, Output | None]:
        if not self._is_captured:
            return None, None
        return self._captures.capture(lambda: self.body(key))

    def _fill(self, rows: int, segments: list[Segment], wanted: Wanted) -> int:
        """Write a step's inputs into the host buffer; returns the rows that are no padding.

        Padding is tokens 0 at position 0, of no sequence.
        """
        self._inputs.wait()
        host, used = self._inputs.host, 0
        for i, segment in enumerate(segments):
            host["starts"][i], host["slots"][i] = segment.start, segment.slot
            host["first_rows"][i] = used
            own = slice(used, used + len(segment))
            host["ids"][own], host["positions"][own] = segment.tokens, segment.positions
            mask = None if segment.mask is None else segment.mask.numpy()
            words = slice(WORDS * own.start, WORDS * own.stop)
            host["ancestors"][words] = ancestor_words(mask, len(segment))
            used = own.stop
        host["first_rows"][len(segments) :] = used
        host["ids"][used:rows], host["positions"][used:rows] = 0, 0
        host["ancestors"][WORDS * used : WORDS * rows] = 0
        if wanted.draw:
            host["keys"][:used] = wanted.draw.keys
            host["temperature"].view(np.float64)[0] = wanted.draw.temperature
        return used

    def _fill_moves(self) -> bool:
        """The same for the moves to be made; returns whether there are any."""
        host, positions = self._inputs.host, self.cache.positions
        nowhere = positions - 1
        host["move_from"][:], host["move_to"][:] = nowhere, nowhere
        count = 0
        for move in self._pending:
            for source, target in move.rows():
                host["move_from"][count] = move.slot * positions + source
                host["move_to"][count] = move.slot * positions + target
                count += 1
        self._pending.clear()
        return count > 0

    def body(self, key: GraphKey) -> Output:
        """What a graph holds: the forward and the picks. Reads the device buffer alone."""
        given, rows = self._inputs.device, key.rows
        words = given["ancestors"][: WORDS * rows].view(rows, WORDS, 1)
        mask = ((words >> self._bits) & 1).bool().view(rows, MOST_NODES)
        step = DeviceStep(
            given["starts"],
            given["slots"],
            given["first_rows"],
            mask,
            self._attention.of(rows).packed(),
        )
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

    def move_rows(self) -> None:
        """The accepted rows, copied out and then in: source and destination overlap."""
        given = self._inputs.device
        flat = self.cache.data.flatten(2, 3)
        kept = flat.index_select(2, given["move_from"])
        flat.index_copy_(2, given["move_to"], kept)

    def _made_mover(self) -> Callable[[], None]:
        """What moves rows, captured where steps are, and compared with the cache's own way.

        Raises BackendFailed where it moves others.
        """
        self.flush()
        self._inputs.wait()
        self._fill_moves()  # capturing runs it: nothing may move
        self._inputs.send()
        mover = self.move_rows
        if self._is_captured:
            graph, _ = self._captures.capture(self.move_rows)
            mover = graph.replay
        if not self._moves_rightly(mover):
            raise BackendFailed("accepted rows are moved elsewhere")
        return mover

    def _moves_rightly(self, mover: Callable[[], None]) -> bool:
        """On noise, with as many moves as fit; the cache is left as it was."""
        rows = self.cache.data[:, :, :, : 2 * MOVES + self.cache.slots]
        before = rows.clone()
        noise = rows.normal_().clone()
        for slot in range(min(self.cache.slots, MOVING_SEQUENCES)):
            self._pending.append(Move(slot, slot, list(range(0, 2 * MOVES, 2))))
        moves = list(self._pending)
        self._inputs.wait()
        self._fill_moves()
        self._inputs.send()
        mover()
        moved = rows.clone()
        rows.copy_(noise)
        for move in moves:
            self.cache.keep(move.slot, move.start, move.path)
        is_right = torch.equal(moved, rows)
        rows.copy_(before)
        return is_right

    def _pick(self, key: GraphKey, logits: torch.Tensor, given: dict[str, torch.Tensor]) -> Picked:
        drawn = None
        if key.draws:
            temperature = given["temperature"].view(torch.float64)
            drawn = draw(logits, given["keys"][: key.rows], temperature)
        return Picked.pack(logits, logits.argmax(-1), drawn, key.target_topk)

    # --- a new graph ------------------------------------------------------------------------------
    def _differs(self, segments: list[Segment], output: Output, wanted: Wanted) -> str:
        """What of a new graph's results is not the eager forward's; empty where all is.

        The cache is left as the launch made it.
        """
        if why := self._picks_wrong(output, wanted):
            return why
        launched = [self._stored(segment).clone() for segment in segments]
        eager = self._reference.run(segments, Wanted(feature_layers=wanted.feature_layers))
        pairs = [("logits", output.logits, eager.logits)]
        if output.features is not None and eager.features is not None:
            pairs.append(("features", output.features, eager.features))
        for segment, rows in zip(segments, launched, strict=True):
            stored = self._stored(segment)
            pairs.append(("cached rows", rows, stored.clone()))
            stored.copy_(rows)
        for what, result, expected in pairs:
            difference = _largest_row_difference(result, expected)
            if not difference <= TOLERANCE[self.network.dtype]:
                return f"{what} differ by {difference:.1%}"
        return ""

    def _stored(self, segment: Segment) -> torch.Tensor:
        """The cache rows that a segment's forward writes."""
        rows = slice(segment.start, segment.start + len(segment))
        return self.cache.data[:, :, segment.slot, rows]

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
