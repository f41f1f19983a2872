"""A suffix automaton over a fixed corpus, with how often each state's strings occur: likely
continuations of a match.

In SAM-Decoding (Hu et al. 2024, section 3.2) the "static" automaton beside the text's own.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import count

import numpy as np

from model.index.edges import NEXT, TO, TOKEN
from model.index.suffix_automaton import (
    HEAD,
    LENGTH,
    LINK,
    Follower,
    SuffixAutomaton,
    ends_of,
)

SUCCESSORS = 8  # likeliest next tokens considered at a state


class CorpusAutomaton(SuffixAutomaton):
    """Built once from documents. `follow` matches a text, `tree` proposes what comes next."""

    def __init__(self, documents: Iterable[list[int]]) -> None:
        super().__init__()
        ends: list[np.ndarray] = []
        for document in documents:
            ends.append(ends_of(self.open(), document))
        self._count = np.zeros(self.states, dtype=np.int64)
        for of_document in ends:
            np.add.at(self._count, of_document, 1)
        states = self.arrays.states[: self.states]
        for state in np.argsort(-states[1:, LENGTH], kind="stable") + 1:
            self._count[states[state, LINK]] += self._count[state]
        self._count[0] = max(1, len(self))

    def follow(self) -> Follower:
        """Begin to match another text."""
        return Follower(self.arrays)

    def tree(
        self, text: Follower, nodes: int, per_depth: int = SUCCESSORS
    ) -> tuple[list[int], list[int]]:
        """(tokens, parents) of the `nodes` likeliest continuations of a text's match, best first;
        parents count from -1.

        A continuation's chance is the product of count(next state) / count(state) along it.
        """
        tokens: list[int] = []
        parents: list[int] = []
        at_depth: dict[int, int] = {}
        order = count()
        heap: list[tuple[float, int, int, int, int, int]] = []
        frontier = (1.0, 0, -1, text.match_state)  # chance, depth, node, state
        while True:
            chance, depth, node, state = frontier
            for token, following in self._successors(state):
                share = chance * float(self._count[following] / self._count[state])
                heapq.heappush(heap, (-share, next(order), depth + 1, token, node, following))
            while heap and at_depth.get(heap[0][2], 0) >= per_depth:
                heapq.heappop(heap)
            if not heap or len(tokens) >= nodes:
                return tokens, parents
            negative, _, depth, token, parent, state = heapq.heappop(heap)
            at_depth[depth] = at_depth.get(depth, 0) + 1
            tokens.append(token)
            parents.append(parent)
            frontier = (-negative, depth, len(tokens) - 1, state)

    def _successors(self, state: int) -> list[tuple[int, int]]:
        """The likeliest (token, state) pairs after a state, ties by smaller token."""
        pairs = []
        edge = self.arrays.states[state, HEAD]
        while edge >= 0:
            row = self.arrays.edges[edge]
            pairs.append((int(row[TOKEN]), int(row[TO])))
            edge = row[NEXT]
        return heapq.nsmallest(SUCCESSORS, pairs, key=lambda pair: (-self._count[pair[1]], pair[0]))
