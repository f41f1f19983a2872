"""How drafts have fared: chances by a drafter's own confidence, and what running it brought."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

BINS = 12
"""Of a node's confidence, halving from bin to bin."""
PRIOR = 8.0
"""Tries that a drafter's own confidence counts for."""
GAIN_BINS = 10
"""Of what is expected without the inner drafter; the last holds four tokens and more."""
FADE = 0.95
EXPLORE = 16
"""One step in so many runs the inner drafter where it has not paid."""


class Tree(Protocol):
    """A draft, root first (`contract.Draft`)."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def parents(self) -> Sequence[int]: ...
    @property
    def chances(self) -> Sequence[float]: ...


class Calibration:
    """The chance that a node is emitted once its parent was, by the confidence it was drafted with.

    A drafter without confidence is judged by a node's rank among its siblings.
    """

    def __init__(self) -> None:
        self._tries = [0.0] * BINS
        self._hits = [0.0] * BINS

    def chances(self, draft: Tree) -> list[float]:
        """Of every node below the root: the product along its path."""
        found = [1.0]
        for node, confidence in enumerate(_confidences(draft), 1):
            place = _bin(confidence)
            hits = self._hits[place] + PRIOR * confidence
            found.append(found[draft.parents[node]] * hits / (self._tries[place] + PRIOR))
        return found[1:]

    def learn(self, draft: Tree, emitted: Sequence[int]) -> None:
        """Of a draft, whether or not it was the one verified, and the tokens that came."""
        depth = {0: 0}
        """Of the nodes that were on the way."""
        for node, confidence in enumerate(_confidences(draft), 1):
            level = depth.get(draft.parents[node])
            if level is None or level >= len(emitted):
                continue
            place = _bin(confidence)
            self._tries[place] += 1
            if draft.tokens[node] == emitted[level]:
                self._hits[place] += 1
                depth[node] = level + 1


class Gains:
    """What a merged draft was expected to bring beyond the outer one, by what that expects."""

    def __init__(self) -> None:
        self._gained = [math.inf] * GAIN_BINS
        self._skipped = 0

    def pays(self, expected: float, price: float) -> bool:
        """Is it worth running the inner drafter? Where it was not lately, it is tried at times."""
        if self._gained[_gain_bin(expected)] >= price:
            return True
        self._skipped += 1
        return self._skipped % EXPLORE == 0

    def expect(self, expected: float, gained: float) -> None:
        """It was run, and is expected to have brought so much."""
        place = _gain_bin(expected)
        before = self._gained[place]
        known = gained if math.isinf(before) else before
        self._gained[place] = FADE * known + (1 - FADE) * gained


def _confidences(draft: Tree) -> list[float]:
    """Of every node below the root, given its parent."""
    if draft.chances:
        found = []
        for node in range(1, len(draft.tokens)):
            parent = draft.parents[node]
            above = draft.chances[parent - 1] if parent else 1.0
            found.append(min(1.0, draft.chances[node - 1] / max(above, 1e-9)))
        return found
    ranks: dict[int, int] = {}
    found = []
    for node in range(1, len(draft.tokens)):
        rank = ranks[draft.parents[node]] = ranks.get(draft.parents[node], 0) + 1
        found.append(2.0**-rank)
    return found


def _bin(confidence: float) -> int:
    return min(BINS - 1, int(-2 * math.log2(max(confidence, 1e-9))))


def _gain_bin(expected: float) -> int:
    return min(GAIN_BINS - 1, int(2.5 * expected))
