"""A chain of steps of a model that follows its own tokens, as one CUDA graph.

What a draft model does: some tokens to catch up with, then one token after another, each fed on the
device; the host reads all of them at once. Lengths lie on the device, so one graph for each bucket
of tokens to catch up with serves every context length. On a CPU the same code runs operation by
operation: so it is tested.

Shapes: V vocabulary.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import torch

from model.engine.backends.cuda_graph import MOST_NODES, CudaGraph, DeviceStep
from model.engine.backends.eager import uncompiled
from model.engine.device.capture import StepBuffer, capture
from model.engine.device.draw import draw
from model.engine.device.reading import to_host
from model.engine.forward import Segment
from model.engine.model import Model

BUCKETS = (1, 2, 4)
MOST_ROWS = BUCKETS[-1]
"""More tokens to catch up with (a prompt, a long copy by another drafter) are fed before."""


@dataclass(frozen=True)
class Chain:
    """Tokens in order, and the model's probability of each."""

    tokens: list[int]
    probabilities: list[float]


@dataclass(frozen=True)
class ChainKey:
    """What a graph is captured for."""

    rows: int
    draws: bool


class ChainGraph:
    """Chains of `length` tokens of a model whose steps are CUDA graphs, over its cache as it is
    now."""

    def __init__(self, model: Model, length: int) -> None:
        backend = model.backend
        assert isinstance(backend, CudaGraph)
        self._model, self._length, self._fused = model, length, backend.fused
        device = model.cache.data.device
        sizes = {"start": 1, "slot": 1, "rows": 1, "temperature": 1}
        self._inputs = StepBuffer({**sizes, "ids": MOST_ROWS, "keys": length}, device)
        self._order = torch.arange(MOST_ROWS, device=device)
        self._graphs: dict[ChainKey, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool: object = None

    @property
    def length(self) -> int:
        return self._length

    def takes(self, segment: Segment) -> bool:
        """Does it fit a bucket, and the chain behind it the cache?"""
        end = segment.start + len(segment) + self._length
        return 1 <= len(segment) <= MOST_ROWS and end <= self._model.room

    @torch.inference_mode()
    def prepare(self) -> bool:
        """Record every bucket; False where one gives another first token than a step of the model.

        The cache must hold no text yet.
        """
        vocab_size = self._model.vocab_size
        for rows in reversed(BUCKETS):
            segment = Segment.causal(0, 0, [(7 * i + 1) % vocab_size for i in range(rows)])
            self.step(segment, 1.0, list(range(self._length)))
            found = self.step(segment, 0.0, [])
            logits = self._model.forward([segment]).logits
            if found.tokens[0] != int(logits[-1].argmax()) and not self._is_tie(logits):
                return False
        return True

    def _is_tie(self, logits: torch.Tensor) -> bool:
        """In half precision the two best may change places."""
        best, second = logits[-1].float().topk(2).values.tolist()
        return best - second <= 2 * torch.finfo(self._model.dtype).eps * abs(best)

    @torch.inference_mode()
    def step(self, segment: Segment, temperature: float, keys: list[int]) -> Chain:
        """Feed the segment's tokens, then what follows them.

        Drawn at the temperature with a noise key a token, at temperature 0 the likeliest. All
        tokens but the last one are cached then.
        """
        used = len(segment)
        key = ChainKey(next(size for size in BUCKETS if size >= used), temperature > 0)
        self._inputs.wait()
        host = self._inputs.host
        host["start"][0], host["slot"][0], host["rows"][0] = segment.start, segment.slot, used
        host["ids"][:used], host["ids"][used:] = segment.tokens, 0
        if temperature:
            host["keys"][:] = keys
            host["temperature"].view(np.float64)[0] = temperature
        self._inputs.send()
        packed = self._replay(key) if self._order.is_cuda else self.body(key)
        tokens, probabilities = to_host(packed).tolist()
        return Chain([int(token) for token in tokens], probabilities)

    def _replay(self, key: ChainKey) -> torch.Tensor:
        if key not in self._graphs:
            made = capture(lambda: self.body(key), self._order.device, self._pool)
            self._graphs[key] = made
            self._pool = self._pool or made[0].pool()
        graph, packed = self._graphs[key]
        graph.replay()
        return packed

    def body(self, key: ChainKey) -> torch.Tensor:
        """What a graph holds: tokens and probabilities, float64 [2, length].

        Reads the device buffer alone.
        """
        given = self._inputs.device
        start, rows = given["start"], given["rows"]
        order = self._order[: key.rows]
        logits = self._forward(given["ids"][: key.rows], start + order, start, rows)
        last = logits.index_select(0, rows - 1)
        cached = start + rows
        picked = []
        for number in range(self._length):
            token, probability = self._pick(last, number, key.draws)
            picked.append(torch.stack([token.double(), probability.double()]))
            if number + 1 < self._length:
                last = self._forward(token, cached, cached, torch.ones_like(rows))
                cached = cached + 1
        return torch.cat(picked, dim=1)

    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, start: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Logits [n, V] of n tokens behind `start` cached ones, of which `rows` count."""
        count = len(tokens)
        nothing = torch.zeros_like(start)  # the kernel wants two sequences: the second has no rows
        columns = torch.arange(MOST_NODES, device=tokens.device)
        step = DeviceStep(
            starts=torch.cat([start, nothing]),
            slots=torch.cat([self._inputs.device["slot"], nothing]),
            first_rows=torch.cat([nothing, rows, rows]),
            mask=columns[None, :] <= self._order[:count, None],
        )
        with contextlib.nullcontext() if self._fused else uncompiled():
            result = self._model.network(
                input_ids=tokens[None], position_ids=positions[None], use_cache=False, step=step
            )
        return result.logits[0]

    def _pick(
        self, logits: torch.Tensor, number: int, draws: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The token [1] after logits [1, V], and how likely the model finds it."""
        given = self._inputs.device
        scores = logits.float()
        token = logits.argmax(-1)
        if draws:
            temperature = given["temperature"].view(torch.float64)
            token = draw(logits, given["keys"][number : number + 1], temperature)
            scores = scores / temperature.float()
        logprobs = scores.log_softmax(-1)
        return token, logprobs.gather(1, token[:, None])[:, 0].exp()
