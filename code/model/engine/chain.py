"""A chain of steps of a model that follows its own tokens, as one CUDA graph.

What a draft model does: some tokens to catch up with, then one token after another, each fed on the
device; the host reads all of them at once. Lengths lie on the device, so one graph for each bucket
of tokens to catch up with serves every context length. Where graphs can branch, a chain ends on the
device too: behind a token that the model is not sure of, and at the length that is asked for. On a
CPU the same code runs operation by operation: so it is tested.

Shapes: V vocabulary.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from model.engine.backends.cuda_graph import MOST_NODES, CudaGraph, DeviceStep
from model.engine.backends.eager import uncompiled
from model.engine.device.branch import run_if
from model.engine.device.capture import Captures, StepBuffer
from model.engine.device.draw import draw
from model.engine.device.merged_linears import compiled
from model.engine.device.reading import to_host
from model.engine.forward import Segment
from model.engine.model import Model

BUCKETS = (1, 2, 4)
MOST_ROWS = BUCKETS[-1]
"""More tokens to catch up with (a prompt, a long copy by another drafter) are fed before."""
UNWRITTEN = -1
"""In place of a token that was not drafted."""


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


@dataclass(frozen=True)
class Progress:
    """How far a chain has come; all on the device, and written in place."""

    found: torch.Tensor
    """float64 [2, length]: tokens and probabilities."""
    number: torch.Tensor
    """int64 [1]: how many there are."""
    token: torch.Tensor
    """int64 [1]: the last one."""
    starts: torch.Tensor
    """int64 [2]: cached rows, and those of a second sequence that has none: the kernel counts
    sequences in powers of two."""
    goes_on: torch.Tensor
    """bool, no dimension."""

    @classmethod
    def of(cls, length: int, device: torch.device) -> Progress:
        return cls(
            found=torch.zeros(2, length, dtype=torch.float64, device=device),
            number=torch.zeros(1, dtype=torch.int64, device=device),
            token=torch.zeros(1, dtype=torch.int64, device=device),
            starts=torch.zeros(2, dtype=torch.int64, device=device),
            goes_on=torch.ones((), dtype=torch.bool, device=device),
        )


class ChainGraph:
    """Chains of up to `length` tokens of a model whose steps are CUDA graphs, over its cache as it
    is now.

    With `branches` a chain ends behind a token that the model gives less than `confidence`; without
    them all chains have the whole length.
    """

    def __init__(
        self, model: Model, length: int, confidence: float = 0.0, branches: bool = False
    ) -> None:
        backend = model.backend
        assert isinstance(backend, CudaGraph)
        self._model, self._backend, self._length = model, backend, length
        self._confidence, self._branches = confidence, branches
        device = model.cache.data.device
        sizes = {"start": 1, "slot": 1, "rows": 1, "most": 1, "temperature": 1}
        self._inputs = StepBuffer({**sizes, "ids": MOST_ROWS, "keys": length}, device)
        self._order = torch.arange(MOST_ROWS, device=device)
        columns = torch.arange(MOST_NODES, device=device)
        self._causal = columns[None, :] <= self._order[:, None]
        self._one_row = torch.tensor([0, 1, 1], device=device)
        self._progress = Progress.of(length, device)
        self._likelihood = compiled(likelihood) if backend.fused else likelihood
        self._write = compiled(write) if backend.fused else write
        self._graphs: dict[ChainKey, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._captures = Captures(device)

    @property
    def length(self) -> int:
        return self._length

    def takes(self, segment: Segment) -> bool:
        """Does it fit a bucket, and the chain behind it the cache?"""
        end = segment.start + len(segment) + self._length
        return 1 <= len(segment) <= MOST_ROWS and end <= self._model.room

    @torch.inference_mode()
    def prepare(self) -> bool:
        """Record every bucket; False where one drafts other than the model does step by step.

        The cache must hold no text yet.
        """
        vocab_size = self._model.vocab_size
        for rows in reversed(BUCKETS):
            tokens = [(7 * i + 1) % vocab_size for i in range(rows)]
            segment = Segment.causal(0, 0, tokens)
            self.step(segment, 1.0, list(range(self._length)), self._length)
            found = self.step(segment, 0.0, [], self._length)
            text = [*tokens, *found.tokens[:-1]]
            logits = self._model.forward([Segment.causal(0, 0, text)]).logits
            own = logits[rows - 1 : rows - 1 + len(found.tokens)]
            if not self._is_chain(found, own):
                return False
        return True

    def _is_chain(self, found: Chain, logits: torch.Tensor) -> bool:
        """Does each token follow the ones before it, and does the chain end where it should?

        `logits` [tokens, V] are the model's own before each. In half precision the two best may
        change places.
        """
        if not found.tokens:
            return False
        likeliest = logits.argmax(-1).tolist()
        for i, (token, own) in enumerate(zip(found.tokens, likeliest, strict=True)):
            if token != own and not self._is_tie(logits[i]):
                return False
        if not self._branches:
            return len(found.tokens) == self._length
        is_sure = [probability >= self._confidence for probability in found.probabilities]
        is_whole = len(found.tokens) == self._length
        return all(is_sure[:-1]) and (is_whole or not is_sure[-1])

    def _is_tie(self, logits_V: torch.Tensor) -> bool:
        best, second = logits_V.float().topk(2).values.tolist()
        return best - second <= 2 * torch.finfo(self._model.dtype).eps * abs(best)

    @torch.inference_mode()
    def step(self, segment: Segment, temperature: float, keys: list[int], most: int) -> Chain:
        """Feed the segment's tokens, then what follows them: `most` tokens, where chains branch.

        Drawn at the temperature with a noise key a token, at temperature 0 the likeliest. All
        tokens but the last one are cached then.
        """
        used = len(segment)
        key = ChainKey(next(size for size in BUCKETS if size >= used), temperature > 0)
        self._inputs.wait()
        host = self._inputs.host
        host["start"][0], host["slot"][0], host["rows"][0] = segment.start, segment.slot, used
        host["most"][0] = most
        host["ids"][:used], host["ids"][used:] = segment.tokens, 0
        if temperature:
            host["keys"][:] = keys
            host["temperature"].view(np.float64)[0] = temperature
        self._inputs.send()
        packed = self._replay(key) if self._order.is_cuda else self.body(key)
        numbers, probabilities = to_host(packed).tolist()
        tokens = [int(number) for number in numbers if number != UNWRITTEN]
        return Chain(tokens, probabilities[: len(tokens)])

    def _replay(self, key: ChainKey) -> torch.Tensor:
        if key not in self._graphs:
            self._graphs[key] = self._captures.capture(lambda: self.body(key))
        graph, packed = self._graphs[key]
        graph.replay()
        return packed

    def body(self, key: ChainKey) -> torch.Tensor:
        """What a graph holds: tokens and probabilities, float64 [2, length].

        Reads the device buffer alone.
        """
        given, progress = self._inputs.device, self._progress
        start, rows, slot = given["start"], given["rows"], given["slot"]
        nothing = torch.zeros_like(start)
        slots = torch.cat([slot, nothing])
        progress.found.fill_(UNWRITTEN)
        progress.number.zero_()
        order = self._order[: key.rows]
        step = DeviceStep(
            starts=torch.cat([start, nothing]),
            slots=slots,
            first_rows=torch.cat([nothing, rows, rows]),
            mask=self._causal[: key.rows],
            launch=self._backend.attention.of(key.rows).packed(),
        )
        logits = self._forward(given["ids"][: key.rows], start + order, step)
        progress.starts.copy_(step.starts)
        progress.starts[:1].add_(rows)
        self._take(logits.index_select(0, rows - 1), 0, key.draws)
        for number in range(1, self._length):
            following = partial(self._follow, number, slots, key.draws)
            if self._branches:
                run_if(progress.goes_on, following)
            else:
                following()
        return progress.found

    def _follow(self, number: int, slots: torch.Tensor, draws: bool) -> None:
        """Feed the last token, take the next: the chain's token of this number."""
        progress = self._progress
        step = DeviceStep(
            starts=progress.starts,
            slots=slots,
            first_rows=self._one_row,
            mask=self._causal[:1],
            launch=self._backend.attention.of(1).packed(),
        )
        logits = self._forward(progress.token, progress.starts[:1], step)
        progress.starts[:1].add_(1)
        self._take(logits, number, draws)

    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, step: DeviceStep
    ) -> torch.Tensor:
        """Logits [n, V] of n tokens."""
        with contextlib.nullcontext() if self._backend.fused else uncompiled():
            result = self._model.network(
                input_ids=tokens[None], position_ids=positions[None], use_cache=False, step=step
            )
        return result.logits[0]

    def _take(self, logits: torch.Tensor, number: int, draws: bool) -> None:
        """The token after logits [1, V], how likely the model finds it, and whether to go on."""
        given, progress = self._inputs.device, self._progress
        token = self._pick(logits, number, draws)
        temperature = given["temperature"].view(torch.float64) if draws else None
        probability = self._likelihood(logits, token, temperature)
        self._write(progress, token, probability, given["most"], self._confidence)

    def _pick(self, logits: torch.Tensor, number: int, draws: bool) -> torch.Tensor:
        """The token [1] after logits [1, V]."""
        given = self._inputs.device
        if not draws:
            return logits.argmax(-1)
        temperature = given["temperature"].view(torch.float64)
        return draw(logits, given["keys"][number : number + 1], temperature)


def likelihood(
    logits: torch.Tensor, token: torch.Tensor, temperature: torch.Tensor | None
) -> torch.Tensor:
    """The probability [1] that logits [1, V] give a token [1]."""
    scores = logits.float()
    if temperature is not None:
        scores = scores / temperature.float()
    return scores.log_softmax(-1).gather(1, token[:, None])[:, 0].exp()


def write(
    progress: Progress,
    token: torch.Tensor,
    probability: torch.Tensor,
    most: torch.Tensor,
    confidence: float,
) -> None:
    """A chain's next token [1]; it goes on while the model is sure and fewer than `most` [1]."""
    column = torch.stack([token.double(), probability.double()])
    progress.found.index_copy_(1, progress.number, column)
    progress.number.add_(1)
    progress.token.copy_(token)
    is_sure = probability >= confidence
    progress.goes_on.copy_((is_sure & (progress.number < most))[0])
