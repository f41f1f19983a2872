"""The next token's probability, blended from all contexts a text ends in, and trees grown by it.

Prediction by partial matching (Cleary and Witten 1984): the longest context that occurred before is
asked first, and with the chance that the true token is none of its continuations the next shorter
one. That chance is learnt as the text goes on, from a start after Witten and Bell (1991), by the
context's length, how often it occurred and how many continuations it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.index.compiled import compiled
from model.index.counted_automaton import (
    CONTEXT_LENGTH,
    CONTEXT_STATE,
    CountedAutomaton,
    advance,
    context_of,
    feed_one,
    shortened,
)
from model.index.edges import NEXT, TO, TOKEN, find
from model.index.heap import pop, push
from model.index.suffix_automaton import COUNT, HEAD, KINDS, LENGTH, LINK


class BlendedText:
    """A growing text over a shared memory of counts, and of what its contexts have been worth."""

    def __init__(self, memory: BlendedMemory) -> None:
        self._memory = memory
        self._end = memory.automaton.open().end

    def feed(self, tokens: Sequence[int]) -> None:
        """Add tokens, learning from each."""
        fed = np.array(tokens, dtype=np.int64)
        arrays, depth = self._memory.automaton.arrays, self._memory.automaton.depth
        arrays.reserve(len(fed))
        feed_and_learn(*arrays.all, self._end, fed, depth, self._memory.learnt)

    def grow(
        self, stops: np.ndarray, prices: np.ndarray, least: float, most: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tokens, parents, path probabilities) of the likeliest tree of up to `most` nodes.

        Parents count from -1, the text's end. A node is added while its probability is at least
        `least` and at least its price, prices[nodes so far]; nothing follows one of `stops`.
        """
        arrays, depth = self._memory.automaton.arrays, self._memory.automaton.depth
        learnt = self._memory.learnt
        return grow(*arrays.all, self._end, depth, learnt, stops, prices, least, most)


class BlendedMemory:
    """What texts share."""

    def __init__(self, longest_context: int) -> None:
        self.automaton = CountedAutomaton(longest_context + 1)
        self.learnt = chances()

    def squeeze(self) -> None:
        """Between generations: as `CountedAutomaton.squeeze`. What is learnt of contexts stays."""
        self.automaton.squeeze()

    def open(self) -> BlendedText:
        """Begin another text."""
        return BlendedText(self)


ORDERS, TOTALS, KIND_BINS = 11, 8, 6
"""Bins of a context's length, of how often it occurred, of how many continuations it has."""
TRIES, HITS = range(2)
PRIOR = 10.0
"""Tries that the start counts for."""
WIDEST = 24
"""Continuations asked of a context, those that came last."""
MOST_TOKENS = 128
"""Different tokens asked for at a node."""
HEAP = 8192


def chances() -> np.ndarray:
    """What is learnt of how often the true token is among a context's continuations; empty."""
    return np.zeros((ORDERS, TOTALS, KIND_BINS, 2), dtype=np.float64)


@compiled
def _order_bin(length: int) -> int:
    if length <= 6:
        return length
    if length <= 9:
        return 7
    if length <= 15:
        return 8
    return 9 if length <= 23 else 10


@compiled
def _log_bin(value: int, most: int) -> int:
    """1, 2, 3-4, 5-8, ...: bins that double."""
    found, bound = 0, 1
    while value > bound and found < most - 1:
        found += 1
        bound *= 2
    return found


@compiled
def hit_chance(learnt: np.ndarray, length: int, total: int, kinds: int) -> float:
    """The chance that the true token is among a context's continuations."""
    start = total / (total + kinds)
    cell = learnt[_order_bin(length), _log_bin(total, TOTALS), _log_bin(kinds, KIND_BINS)]
    return (cell[HITS] + PRIOR * start) / (cell[TRIES] + PRIOR)


@compiled
def _learn(states, edges, table, learnt, state, length, token):
    """Count for every context, from the longest to the first that knew the token, if it did."""
    while state >= 0:
        kinds = states[state, KINDS]
        if kinds > 0:
            total = max(kinds, states[state, COUNT] - 1)
            cell = learnt[_order_bin(length), _log_bin(total, TOTALS), _log_bin(kinds, KIND_BINS)]
            cell[TRIES] += 1
            if find(edges, table, state, token) >= 0:
                cell[HITS] += 1
                return
        state = states[state, LINK]
        length = states[state, LENGTH] if state >= 0 else 0


@compiled
def feed_and_learn(counts, states, edges, table, log, end, tokens, depth, learnt):
    """Add tokens to a text, learning from each what its contexts were worth."""
    for token in tokens:
        state, length = shortened(states, context_of(states, end), end[CONTEXT_LENGTH], depth - 1)
        _learn(states, edges, table, learnt, state, length, token)
        feed_one(counts, states, edges, table, log, end, token, depth)


@compiled
def _is_in(tokens: np.ndarray, count: int, token: int) -> bool:
    for i in range(count):  # noqa: SIM110 (a generator is no compiled code)
        if tokens[i] == token:
            return True
    return False


@compiled
def _push_children(states, edges, learnt, state, length, mass, least, seen, heap, size, pushed):
    """Push what may follow a context with its probability, `mass` in all; returns how many.

    A token counts only at the longest context that knows it.
    """
    keys, order, of_parent, of_token = heap
    known = 0
    parent = pushed[1]
    while state >= 0 and mass >= least and known < len(seen) - WIDEST:
        kinds = states[state, KINDS]
        if kinds > 0:
            before = known
            total = 0
            asked = 0
            edge = states[state, HEAD]
            while edge >= 0 and asked < WIDEST:
                token = edges[edge, TOKEN]
                if not _is_in(seen[:, 0], before, token):
                    # what came last counts once more
                    times = states[edges[edge, TO], COUNT] + (1 if asked == 0 else 0)
                    seen[known, 0], seen[known, 1] = token, times
                    total += times
                    known += 1
                asked += 1
                edge = edges[edge, NEXT]
            if known > before:
                occurred = max(kinds, states[state, COUNT] - 1)
                if edge >= 0:  # others were not asked: they have their share
                    total = max(total, occurred)
                chance = hit_chance(learnt, length, occurred, kinds)
                for i in range(before, known):
                    probability = mass * chance * seen[i, 1] / total
                    if probability >= least:
                        number = pushed[0]
                        if number < len(of_parent):
                            of_parent[number], of_token[number] = parent, seen[i, 0]
                            size = push(keys, order, size, probability, number)
                            pushed[0] = number + 1
                mass *= 1.0 - chance
        state = states[state, LINK]
        length = states[state, LENGTH] if state >= 0 else 0
    return size


@compiled
def grow(counts, states, edges, table, log, end, depth, learnt, stops, prices, least, most):
    """(tokens, parents, probabilities) of the likeliest tree of up to `most` nodes below a text.

    Parents count from -1, the text's end. A node is added while its probability is at least
    `least` and at least its price, prices[nodes so far].
    """
    heap = (
        np.empty(HEAP, dtype=np.float64),
        np.empty(HEAP, dtype=np.int64),
        np.empty(HEAP, dtype=np.int64),
        np.empty(HEAP, dtype=np.int64),
    )
    keys, order, of_parent, of_token = heap
    tokens = np.empty(most, dtype=np.int64)
    parents = np.empty(most, dtype=np.int64)
    chances_of = np.empty(most, dtype=np.float64)
    where = np.empty((most, 2), dtype=np.int64)
    seen = np.empty((MOST_TOKENS, 2), dtype=np.int64)
    pushed = np.array([0, -1])
    state, length = shortened(states, context_of(states, end), end[CONTEXT_LENGTH], depth - 1)
    nodes = 0
    size = _push_children(states, edges, learnt, state, length, 1.0, least, seen, heap, 0, pushed)
    while size > 0 and nodes < most:
        size = pop(keys, order, size)
        probability, number = keys[size], order[size]
        least = max(least, prices[min(nodes, len(prices) - 1)])
        if probability < least:
            break
        parent, token = of_parent[number], of_token[number]
        tokens[nodes], parents[nodes], chances_of[nodes] = token, parent, probability
        if parent >= 0:
            state, length = where[parent, 0], where[parent, 1]
        else:
            state, length = shortened(states, end[CONTEXT_STATE], end[CONTEXT_LENGTH], depth - 1)
        state, length = advance(states, edges, table, state, length, token, depth - 1)
        where[nodes, 0], where[nodes, 1] = state, length
        pushed[1] = nodes
        nodes += 1
        if not _is_in(stops, len(stops), token):
            size = _push_children(
                states, edges, learnt, state, length, probability, least, seen, heap, size, pushed
            )
    return tokens[:nodes], parents[:nodes], chances_of[:nodes]
