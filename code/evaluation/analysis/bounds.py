"""What copying from earlier text could accept at best: bounds for drafters that need no model.

Pure functions over token ids. What a memory holds is said by its scope: the text itself (request),
or all earlier texts of the question too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.analysis.metrics import NAN
from model.index.suffix_automaton import SuffixAutomaton

CONTEXTS = tuple(range(1, 9))
"""Tokens of the contexts looked up."""


@dataclass
class Bounds:
    """Sums over texts; they add up."""

    tokens: int = 0
    """Positions whose token was to be found."""
    found: list[int] = field(default_factory=lambda: [0] * len(CONTEXTS))
    """For contexts of 1, 2, ... tokens: positions where an earlier occurrence of the last so many
    tokens was followed by the true one."""
    steps: int = 0
    """Of a drafter that always copies the best occurrence of the last token."""

    @property
    def mat(self) -> float:
        """Mean accepted tokens of always copying the best occurrence; NaN without a step."""
        return self.tokens / self.steps if self.steps else NAN

    def shares(self) -> list[float]:
        """`found` as shares."""
        return [found / max(1, self.tokens) for found in self.found]

    def add(self, other: Bounds) -> None:
        self.tokens += other.tokens
        self.steps += other.steps
        self.found = [a + b for a, b in zip(self.found, other.found, strict=True)]

    def as_json(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "found": self.found, "steps": self.steps}

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Bounds:
        return cls(data["tokens"], list(data["found"]), data["steps"])


def bounds(texts: Iterable[tuple[list[int], list[int]]], is_shared: bool) -> Bounds:
    """Of (prompt, output) pairs in order; `is_shared`: earlier ones are remembered.

    The first token of an output comes from the prefill and is not counted.
    """
    total = Bounds()
    automaton = SuffixAutomaton()
    for prompt, output in texts:
        if not is_shared:
            automaton = SuffixAutomaton()
        text = automaton.open()
        text.feed(prompt)
        text.feed(output[:1])
        ids = np.array(output, dtype=np.int64)
        at = 1
        while at < len(output):
            # the root counts: what is copied must have followed an occurrence of it
            copied = text.longest_copy(ids, at - 1) - 1
            emitted = min(copied + 1, len(output) - at)
            matches = text.feed_and_measure(output[at : at + emitted])
            for k in CONTEXTS:
                total.found[k - 1] += int((matches > k).sum())
            total.tokens += emitted
            total.steps += 1
            at += emitted
    return total
