"""What a forward is given and what it yields: rows of sequences in, logits and tokens out.

Shapes: T rows of a segment, R rows of all segments, V vocabulary, A feature layers, H hidden size,
K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.engine.device.reading import to_host


@dataclass(frozen=True)
class Segment:
    """T new rows of one sequence: its cache slot, its cached rows, and what each new row attends.

    All cached rows are attended; among the new rows those that `mask` names, bool [T, T] on the
    host (None: causal).
    """

    slot: int
    start: int
    """Rows of the sequence that are cached: the new rows stand behind them."""
    tokens: Sequence[int]
    positions: Sequence[int]
    mask: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def causal(cls, slot: int, start: int, tokens: Sequence[int]) -> Segment:
        """The next tokens of a text."""
        return cls(slot, start, tokens, range(start, start + len(tokens)))


@dataclass(frozen=True)
class Draw:
    """Draw a token after every row: at a temperature, with a noise key for each row."""

    temperature: float
    keys: Sequence[int]


@dataclass(frozen=True)
class Wanted:
    """What the caller will read of a forward."""

    last_only: bool = False
    """Only the very last row's logits and tokens."""
    feature_layers: tuple[int, ...] = ()
    target_topk: int = 0
    """How many of the likeliest tokens after every row."""
    draw: Draw | None = None
    """None: the argmax is all that is picked."""
    is_step: bool = False
    """A decoding step, of a few rows: worth recording as a graph. A prompt is not."""


@dataclass(frozen=True)
class Picked:
    """Tokens picked on the device, packed so that one transfer brings them to the host.

    `packed` is int64 [rows, 2 + 2 K], log-probabilities as the bits of their float32; only this
    class knows its columns.
    """

    packed: torch.Tensor

    @classmethod
    def pack(
        cls,
        logits: torch.Tensor,
        argmax: torch.Tensor,
        drawn: torch.Tensor | None = None,
        target_topk: int = 0,
    ) -> Picked:
        """Of logits [rows, V], their argmax and drawn [rows] (None: the argmax), with the K
        likeliest tokens."""
        columns = [argmax[:, None], (argmax if drawn is None else drawn)[:, None]]
        if target_topk:
            best = logits.topk(target_topk, dim=-1)
            logprobs = best.values.float() - logits.float().logsumexp(-1, keepdim=True)
            columns += [best.indices, logprobs.view(torch.int32).long()]
        return cls(torch.cat(columns, dim=1))

    @property
    def argmax(self) -> torch.Tensor:
        """The likeliest token [rows]."""
        return self.packed[:, 0]

    @property
    def drawn(self) -> torch.Tensor:
        """The drawn token [rows]; the argmax where none was to be drawn."""
        return self.packed[:, 1]

    @property
    def target_topk(self) -> torch.Tensor:
        """The K likeliest tokens [rows, K], best first."""
        return self.packed[:, 2 : 1 + self.packed.shape[1] // 2]

    def rows(self, begin: int, end: int | None = None) -> Picked:
        return Picked(self.packed[begin:end])

    def to_host(self) -> HostPicked:
        """One transfer."""
        packed = to_host(self.packed)
        best, bits = np.split(packed[:, 2:], 2, axis=1)
        logprobs = bits.astype(np.int32).view(np.float32)
        return HostPicked(packed[:, 0], packed[:, 1], best, logprobs)


@dataclass(frozen=True)
class HostPicked:
    """`Picked` on the host, as numpy arrays."""

    argmax: np.ndarray
    drawn: np.ndarray
    target_topk: np.ndarray
    target_logprobs: np.ndarray

    def rows(self, rows: slice) -> HostPicked:
        return HostPicked(
            self.argmax[rows], self.drawn[rows], self.target_topk[rows], self.target_logprobs[rows]
        )


@dataclass(frozen=True)
class Output:
    """What a forward yields; valid until the next one."""

    logits: torch.Tensor
    """[rows asked for, V] in the model's number type."""
    features: torch.Tensor | None = None
    """[R, A*H], layers in ascending order."""
    picked: Picked | None = None
    """Where the forward itself picked the tokens; None: the caller picks from the logits."""

    def first_rows(self, count: int) -> Output:
        """The first rows: those that are no padding."""
        return Output(
            self.logits[:count],
            None if self.features is None else self.features[:count],
            None if self.picked is None else self.picked.rows(0, count),
        )

    def last_row(self) -> Output:
        """Logits and tokens of the last row alone, as views; features stay whole."""
        return Output(
            self.logits[-1:], self.features, None if self.picked is None else self.picked.rows(-1)
        )
