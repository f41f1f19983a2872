"""The forward of one sequence's draft with every length on the device: on a GPU, one CUDA graph per bucket of rows.

All inputs of a step lie in one host buffer that is copied at once; a bucket's graph then moves the cache rows that the
previous step accepted, runs the unpatched model and picks the target's tokens. A graph is captured when it is first
wanted and replayed from then on, so nothing of a step is launched from Python. On a CPU the same code runs operation by
operation: so it is tested.

Shapes: B rows of a bucket, V vocabulary, A captured layers, H hidden size.
"""

import contextlib
import functools
import gc
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

from model.engine import sampling
from model.engine.attention import Segment
from model.engine.cache import KVCache
from model.engine.tree_attention import tree_attention

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
MOST_ROWS = BUCKETS[-1]  # a cache keeps so many rows free behind the last usable one: a bucket's unused rows fall there
SLOT = 0  # the cache slot that graphs serve: one sequence at a time
MOVES = 32  # the longest accepted path a graph moves: 5 MB for Qwen3-8B, one thousandth of a step; longer ones are rare
T = TypeVar("T")
KV = "kv_rows"  # the buffer by which an attention module knows its part of the cache


@dataclass(frozen=True)
class Choice:
    """How to pick tokens within the forward: at a temperature with a noise key for each row, or (no keys) the argmax."""

    temperature: float = 0.0
    keys: Sequence[int] | None = None


@dataclass(frozen=True)
class Key:
    """What a graph is captured for."""

    rows: int
    features: tuple[int, ...] = ()
    topk: int = 0
    sampled: bool = False


@dataclass(frozen=True)
class Outputs:
    """logits [B, V]; picked int64 [B, 2 + top-k]: argmax, sampled token, likeliest tokens; features [B, A*H] or None."""

    logits: torch.Tensor
    picked: torch.Tensor
    features: torch.Tensor | None

    def rows(self, n: int) -> "Outputs":
        """The first n rows: those that are no padding."""
        return Outputs(self.logits[:n], self.picked[:n], None if self.features is None else self.features[:n])


class Inputs:
    """One int64 buffer on the host (pinned), its copy on the device, and named views of both."""

    def __init__(self, sizes: dict[str, int], device: torch.device) -> None:
        ends = list(itertools.accumulate(sizes.values(), initial=0))
        cuda = device.type == "cuda"
        self._host = torch.zeros(ends[-1], dtype=torch.int64, pin_memory=cuda)
        self._device = torch.zeros(ends[-1], dtype=torch.int64, device=device)
        self._sent = torch.cuda.Event() if cuda else None
        pieces = dict(zip(sizes, itertools.pairwise(ends)))
        self.host = {name: self._host[a:b].numpy() for name, (a, b) in pieces.items()}
        self.device = {name: self._device[a:b] for name, (a, b) in pieces.items()}

    def wait(self) -> None:
        """Until the host buffer may be written again."""
        if self._sent:
            self._sent.synchronize()

    def send(self) -> None:
        """One asynchronous copy."""
        self._device.copy_(self._host, non_blocking=True)
        if self._sent:
            self._sent.record()


@dataclass
class StaticStep:
    """What attention needs of a step whose lengths lie on the device; passes through the model as `step`."""

    start: torch.Tensor
    mask: torch.Tensor
    features: dict[int, torch.Tensor] = field(default_factory=dict)

    def attend(self, module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
               scaling: float) -> torch.Tensor:
        """What `packed_rows` hands over: query [1, H, B, D] -> [1, B, H, D]."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return tree_attention(q, k, v, getattr(module, KV), self.start, self.mask, scaling, True)[None]


def bucket(rows: int) -> int:
    """The smallest bucket that holds so many rows."""
    return next(b for b in BUCKETS if b >= rows)


def ancestor_words(mask_NN: np.ndarray | None, rows: int) -> np.ndarray:
    """Which new rows each new row attends, as 128 bits in two int64 words, [2 * rows]; no mask is a chain."""
    wide = np.zeros((rows, MOST_ROWS), dtype=bool)
    wide[:, :rows] = np.tri(rows, dtype=bool) if mask_NN is None else mask_NN
    return np.packbits(wide, axis=1, bitorder="little").view("<i8").reshape(-1)


def fuse(model: PreTrainedModel) -> None:
    """Have the parts of every decoder layer compiled, each part once for all layers.

    Parts, not layers: hooks on layers stay outside, and one compilation of seconds serves them all. What fuses is the
    norms, the rotary embedding and the gate: 45 launches a layer become about 16.
    """
    # one code object serves every model of a class, so a target, its draft model and new caches share the limit
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for layer in model.get_decoder().layers:
        for part in layer.children():
            part.compile()


def uncompiled() -> contextlib.AbstractContextManager:
    """Run what was compiled operation by operation: prompts, and the reference that graphs are compared with."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and importing it takes a second
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")


@functools.cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures of a device: each new one would keep a workspace of the matrix library."""
    return torch.cuda.Stream(device)


def capture(body: Callable[[], T], device: torch.device, pool: object = None) -> tuple[torch.cuda.CUDAGraph, T]:
    """A CUDA graph of `body()` and what it returned; run twice before, as capturing asks for.

    Raises what `body` raised; the current stream is then what it was before.
    """
    before, stream, graph = torch.cuda.current_stream(device), capture_stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(before)
    collecting = gc.isenabled()
    gc.disable()  # memory freed by a collection would end the capture
    try:
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles kernels, creates handles
                body()
        before.wait_stream(stream)
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            result = body()
    except Exception as error:
        torch.cuda.set_stream(before)
        torch.cuda.synchronize(device)
        raise error.__context__ or error from None  # ending a broken capture raises an error of its own
    finally:
        if collecting:
            gc.enable()
    return graph, result


def forget_caches(model: PreTrainedModel) -> None:
    """Let go of the cache that the attention modules hold, before a larger one is allocated."""
    for module in model.modules():
        module._buffers.pop(KV, None)


class StaticForward:
    """The forwards of one model over one cache slot."""

    def __init__(self, model: PreTrainedModel, cache: KVCache, fused: bool = False) -> None:
        self._model, self._cache, self._fused = model, cache, fused
        if fused:
            fuse(model)
        device = cache.data.device
        self._captured = device.type == "cuda"
        self._inputs = Inputs({"start": 1, "moved_to": 1, "temperature": 1, "moves": MOVES, "ids": MOST_ROWS,
                               "positions": MOST_ROWS, "keys": MOST_ROWS, "ancestors": 2 * MOST_ROWS}, device)
        self._graphs: dict[Key, tuple[torch.cuda.CUDAGraph | None, Outputs | None]] = {}
        self._pool: object = None
        self._moves: tuple[int, list[int]] | None = None
        self._bits, self._order = torch.arange(64, device=device), torch.arange(MOVES, device=device)
        self.seconds = 0.0
        """Spent on steps of a new kind: compiling and capturing."""
        for module in model.modules():
            if hasattr(module, "layer_idx") and hasattr(module, "scaling"):
                module.register_buffer(KV, cache.data[module.layer_idx][:, SLOT], persistent=False)

    def takes(self, segments: list[Segment]) -> bool:
        """One sequence in the captured slot, of no more rows than the largest bucket."""
        return len(segments) == 1 and segments[0].slot == SLOT and len(segments[0].tokens) <= MOST_ROWS

    def key(self, segment: Segment, choice: Choice, features: tuple[int, ...], topk: int) -> Key:
        return Key(bucket(len(segment.tokens)), features, topk, choice.keys is not None)

    def has(self, key: Key) -> bool:
        return key in self._graphs

    def run(self, key: Key, segment: Segment, choice: Choice) -> Outputs:
        """Launch a step; its outputs are valid until the next one."""
        if key.rows == 1 or key not in self._graphs:  # one row needs no moves; capturing would make them twice
            self.flush()
        self._fill(key.rows, segment, choice)
        self._inputs.send()
        begun, new = time.perf_counter(), key not in self._graphs
        if new:
            self._graphs[key] = self._capture(key) if self._captured else (None, None)
        graph, outputs = self._graphs[key]
        if graph is None:
            outputs = self._body(key)
        else:
            self._pool = self._pool or graph.pool()
            graph.replay()
        if new:
            self.seconds += time.perf_counter() - begun
        return outputs.rows(len(segment.tokens))

    def keep(self, start: int, path: list[int]) -> None:
        """Rows `start + path` become `start...`: the next step's graph moves them, or, where there are many, now."""
        if all(i == node for i, node in enumerate(path)):
            return
        self._moves = (start, path)
        if len(path) > MOVES:
            self.flush()

    def flush(self) -> None:
        """Move now what the next step would have moved; also before anything else uses the cache."""
        if self._moves:
            self._cache.keep(SLOT, *self._moves)
            self._moves = None

    def _capture(self, key: Key) -> tuple[torch.cuda.CUDAGraph, Outputs]:
        return capture(lambda: self._body(key), self._cache.data.device, self._pool)

    def stored(self, start: int, rows: int) -> torch.Tensor:
        """The cached keys and values [layer, 2, rows, K, D] from row `start` on."""
        return self._cache.data[:, :, SLOT, start:start + rows]

    def _fill(self, rows: int, segment: Segment, choice: Choice) -> None:
        self._inputs.wait()
        host, n = self._inputs.host, len(segment.tokens)
        host["start"][0] = segment.start
        host["ids"][:n], host["ids"][n:rows] = segment.tokens, 0
        host["positions"][:n], host["positions"][n:rows] = segment.positions, segment.start
        mask = None if segment.mask is None else segment.mask.numpy()
        host["ancestors"][:2 * n], host["ancestors"][2 * n:2 * rows] = ancestor_words(mask, n), 0
        if choice.keys is not None:
            host["keys"][:n] = choice.keys
            host["temperature"].view(np.float64)[0] = choice.temperature
        start, path = self._moves or (segment.start, [])
        host["moved_to"][0] = start
        host["moves"][:] = np.arange(MOVES)
        host["moves"][:len(path)] = path
        self._moves = None

    def _body(self, key: Key) -> Outputs:
        given, rows = self._inputs.device, key.rows
        if rows > 1:
            self._move(given)
        words = given["ancestors"][:2 * rows].view(rows, 2, 1)
        mask = ((words >> self._bits) & 1).bool().reshape(rows, MOST_ROWS)[:, :rows].contiguous()
        step = StaticStep(given["start"], mask)
        with contextlib.nullcontext() if self._fused else uncompiled():
            logits = self._model(input_ids=given["ids"][None, :rows], position_ids=given["positions"][None, :rows],
                                 use_cache=False, step=step).logits[0]
        features = torch.cat([step.features[i] for i in key.features], dim=-1) if key.features else None
        return Outputs(logits, self._pick(key, logits, given), features)

    def _move(self, given: dict[str, torch.Tensor]) -> None:
        """The accepted rows, copied out and then in: source and destination overlap."""
        cached = self._cache.data[:, :, SLOT]
        rows = cached.index_select(2, given["moved_to"] + given["moves"])
        cached.index_copy_(2, given["moved_to"] + self._order, rows)

    def _pick(self, key: Key, logits: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
        likeliest = logits.argmax(-1, keepdim=True)
        drawn = likeliest
        if key.sampled:
            temperature = given["temperature"].view(torch.float64)
            drawn = sampling.draw(logits, given["keys"][:key.rows], temperature)[:, None]
        best = [logits.topk(key.topk, dim=-1).indices] if key.topk else []
        return torch.cat([likeliest, drawn, *best], dim=1)
