"""Drafts from counts of continuations, as in SuffixDecoding (Oliaro et al. 2024, section 3).

For every suffix of the text that occurs in the memory: follow the commonest continuation (a path),
or all likely ones (a tree). A token's probability is the product of the shares along its path; a
draft's score is their sum, and the best score over all lengths of the suffix wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from model.index.compiled import compiled
from model.index.counted_automaton import (
    CONTEXT_LENGTH,
    CountedAutomaton,
    CountedFollower,
    CountedText,
    context_of,
)
from model.index.edges import NEXT, TO, TOKEN
from model.index.heap import pop, push
from model.index.suffix_automaton import COUNT, HEAD, LENGTH, LINK

HEAP = 4096


class Rule(NamedTuple):
    """How much is drafted."""

    most: int
    """Tokens of a draft."""
    factor: float
    """Tokens per matched token, and"""
    offset: float
    """so many more."""
    least: float
    """No token of a smaller probability."""
    is_tree: bool


class Speculation(NamedTuple):
    """A draft; parents count from -1, the text's end."""

    tokens: np.ndarray
    parents: np.ndarray
    score: float

    def until(self, stop_ids: frozenset[int]) -> tuple[list[int], list[int]]:
        """(tokens, parents) without what stands below a stop token."""
        tokens, parents = self.tokens.tolist(), self.parents.tolist()
        if stop_ids.isdisjoint(tokens):
            return tokens, parents
        new_number = {-1: -1}
        kept: list[int] = []
        for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
            if parent in new_number:
                if token not in stop_ids:
                    new_number[node] = len(kept)
                kept.append(node)
        return [tokens[node] for node in kept], [new_number[parents[node]] for node in kept]


def speculate(text: CountedText | CountedFollower, rule: Rule) -> Speculation:
    """The best-scored draft over all lengths of the suffix; of equal ones the longer suffix's."""
    arrays, depth = text.automaton.arrays, text.automaton.depth
    found = _best(*arrays.all, text.end, depth, *rule)
    return Speculation(*found)


class SuffixMemory:
    """All outputs of a scope, and the text under way: its prompt and output by themselves too."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._outputs = CountedAutomaton(depth)

    def squeeze(self) -> None:
        """Between generations: as `CountedAutomaton.squeeze`."""
        self._outputs.squeeze()

    def open(self) -> SuffixText:
        """Begin another text."""
        return SuffixText(self.depth, self._outputs)


class SuffixText:
    """One growing text."""

    def __init__(self, depth: int, outputs: CountedAutomaton) -> None:
        self._own = CountedAutomaton(depth).open()
        self._output = outputs.open()
        self._in_outputs = CountedFollower(outputs)

    def feed_prompt(self, tokens: Sequence[int]) -> None:
        self._own.feed(tokens)
        self._in_outputs.feed(tokens)

    def feed(self, tokens: Sequence[int]) -> None:
        """Add output tokens."""
        self._own.feed(tokens)
        for token in tokens:
            self._output.feed((token,))
            self._in_outputs.feed((token,))

    def speculate(self, rule: Rule) -> Speculation:
        """The better scored of both memories' drafts; of equal ones the text's own."""
        own, of_outputs = speculate(self._own, rule), speculate(self._in_outputs, rule)
        return own if own.score >= of_outputs.score else of_outputs


@compiled
def _wanted(length, most, factor, offset, depth):
    """Tokens drafted for a match of this length: the tree ends at its depth."""
    by_length = int(length * factor + offset + 1e-6)
    return max(0, min(most, by_length, depth - length))


@compiled
def _best(counts, states, edges, table, log, end, depth, most, factor, offset, least, is_tree):
    best = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), 0.0)
    state = context_of(states, end)
    length = min(end[CONTEXT_LENGTH], depth - 1)
    while state > 0 and length > 0:
        # all suffixes of a state have the same continuations: the one that drafts most is asked,
        # of equals the longest
        shortest = states[states[state, LINK], LENGTH] + 1
        if shortest <= length:
            wanted, tried = 0, length
            while tried >= shortest:
                wanted = max(wanted, _wanted(tried, most, factor, offset, depth))
                tried -= 1
            if wanted > 0 and states[state, HEAD] >= 0:
                if is_tree:
                    found = _tree(states, edges, state, wanted, least)
                else:
                    found = _path(states, edges, state, wanted, least)
                if found[2] > best[2]:  # from long to short: of equal scores the longer stays
                    best = found
        state = states[state, LINK]
        length = min(states[state, LENGTH], depth - 1)
    return best


@compiled
def _path(states, edges, state, wanted, least):
    tokens = np.empty(wanted, dtype=np.int64)
    probability, score, drafted = 1.0, 0.0, 0
    while drafted < wanted:
        chosen, commonest = -1, 0
        edge = states[state, HEAD]
        while edge >= 0:
            count = states[edges[edge, TO], COUNT]
            if count > commonest:
                chosen, commonest = edge, count
            edge = edges[edge, NEXT]
        if chosen < 0:
            break
        probability *= commonest / states[state, COUNT]
        if probability < least:
            break
        tokens[drafted] = edges[chosen, TOKEN]
        score += probability
        drafted += 1
        state = edges[chosen, TO]
    return tokens[:drafted], np.arange(drafted) - 1, score


@compiled
def _tree(states, edges, state, wanted, least):
    keys = np.empty(HEAP, dtype=np.float64)
    order = np.empty(HEAP, dtype=np.int64)
    parent_of = np.empty(HEAP, dtype=np.int64)
    edge_of = np.empty(HEAP, dtype=np.int64)
    tokens = np.empty(wanted, dtype=np.int64)
    parents = np.empty(wanted, dtype=np.int64)
    size = pushed = nodes = 0
    probability, score, parent = 1.0, 0.0, -1
    while True:
        edge = states[state, HEAD]
        while edge >= 0 and pushed < HEAP:
            share = probability * states[edges[edge, TO], COUNT] / states[state, COUNT]
            if share >= least:
                parent_of[pushed], edge_of[pushed] = parent, edge
                size = push(keys, order, size, share, pushed)
                pushed += 1
            edge = edges[edge, NEXT]
        if size == 0 or nodes == wanted:
            return tokens[:nodes], parents[:nodes], score
        size = pop(keys, order, size)
        probability, number = keys[size], order[size]
        tokens[nodes] = edges[edge_of[number], TOKEN]
        parents[nodes] = parent_of[number]
        score += probability
        parent = nodes
        state = edges[edge_of[number], TO]
        nodes += 1
