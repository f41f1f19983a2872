"""What was drafted, packed into a record's field: the nodes of every step (`--record-drafts`).

Of a step the number of its candidate nodes, the root not counted, then their tokens, then their
parents (0: the root), as int32, zlib-compressed and base64-coded: 2 bytes a node of the mini
family's texts.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DraftedNodes:
    """One step's candidates: node i + 1 has `tokens[i]` and hangs below node `parents[i]`."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]

    def refused(self, emitted: Sequence[int]) -> list[list[int]]:
        """The continuations drafted where the target went another way, best first.

        `emitted` are the step's tokens, the bonus last. Of every refused child its first line of
        descent.
        """
        node = 0
        for token in emitted[:-1]:
            node = next((child for child in self._children(node) if self._token(child) == token), 0)
        return [
            self._line(child) for child in self._children(node) if self._token(child) != emitted[-1]
        ]

    def _line(self, node: int) -> list[int]:
        tokens = [self._token(node)]
        while children := self._children(node):
            node = children[0]
            tokens.append(self._token(node))
        return tokens

    def _token(self, node: int) -> int:
        return self.tokens[node - 1]

    def _children(self, node: int) -> list[int]:
        return [child for child, parent in enumerate(self.parents, start=1) if parent == node]


def packed_drafts(drafts: Iterable[DraftedNodes]) -> str:
    """As text for a record."""
    numbers: list[int] = []
    for draft in drafts:
        numbers += [len(draft.tokens), *draft.tokens, *draft.parents]
    raw = np.array(numbers, dtype="<i4").tobytes()
    return base64.b64encode(zlib.compress(raw)).decode("ascii")


def unpacked_drafts(text: str) -> list[DraftedNodes]:
    """Raises ValueError for text that `packed_drafts` did not write."""
    try:
        raw = zlib.decompress(base64.b64decode(text, validate=True))
    except zlib.error as error:
        raise ValueError(str(error)) from None
    numbers = np.frombuffer(raw, dtype="<i4").tolist()
    drafts = []
    at = 0
    while at < len(numbers):
        count = numbers[at]
        tokens = tuple(numbers[at + 1 : at + 1 + count])
        parents = tuple(numbers[at + 1 + count : at + 1 + 2 * count])
        at += 1 + 2 * count
        is_whole = count >= 0 and at <= len(numbers)
        if not is_whole or any(not 0 <= p <= i for i, p in enumerate(parents)):
            raise ValueError("no drafts")
        drafts.append(DraftedNodes(tokens, parents))
    return drafts
