"""A suffix automaton over a fixed corpus, with how often each state's strings occur: likely
continuations of a match.

In SAM-Decoding (Hu et al. 2024, section 3.2) the "static" automaton beside the text's own. About
half a kilobyte of memory a corpus token."""

import heapq
from collections.abc import Iterable
from itertools import count

from model.index.suffix_automaton import SuffixAutomaton

SUCCESSORS = 8  # likeliest next tokens considered at a state


class CorpusAutomaton(SuffixAutomaton):
    """Built once from documents. `match` then follows a text, `tree` proposes what comes next."""

    def __init__(self, documents: Iterable[list[int]]) -> None:
        super().__init__()
        ends: list[int] = []
        for number, document in enumerate(documents):
            for token in (*document, -1 - number):  # a token of its own closes a document
                self._extend(token)
                ends.append(self._last)
        self._count = [0] * len(self._link)
        for state in ends:
            self._count[state] += 1
        for state in sorted(range(1, len(self._link)), key=lambda s: -self._length[s]):
            self._count[self._link[state]] += self._count[state]
        self._count[0] = max(1, len(self.text))

    def match(self, token: int) -> None:
        """The text goes on with `token`; the corpus stays as it is."""
        self._advance(token)

    def tree(self, nodes: int, per_depth: int = SUCCESSORS) -> tuple[list[int], list[int]]:
        """(tokens, parents) of the `nodes` likeliest continuations of the match, best first;
        parents count from -1.

        A continuation's chance is the product of count(next state) / count(state) along it.
        """
        tokens: list[int] = []
        parents: list[int] = []
        at_depth: dict[int, int] = {}
        order = count()
        heap: list[tuple[float, int, int, int, int, int]] = []
        frontier = (1.0, 0, -1, self._state)  # chance, depth, node, state
        while True:
            chance, depth, node, state = frontier
            for token, following in self._successors(state):
                share = chance * self._count[following] / self._count[state]
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
        """The likeliest (token, state) pairs after a state, ties by smaller token, document ends
        aside.
        """
        pairs = [(token, following) for token, following in self._next[state].items() if token >= 0]
        return heapq.nsmallest(SUCCESSORS, pairs, key=lambda pair: (-self._count[pair[1]], pair[0]))
