"""A suffix automaton that counts: how often every string of up to `depth` tokens occurs, and which
token followed it last.

It knows what a suffix tree knows, every count and continuation, over an automaton's states: strings
with the same ends share one state, and their count. A text keeps the state of its last `depth`
tokens; the states of all its shorter contexts are that one's links. One token costs a few steps a
context with a count of its own, `depth` at most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.index.compiled import compiled
from model.index.edges import NEXT, PREVIOUS, TO, TOKEN, find
from model.index.suffix_automaton import (
    COUNT,
    HEAD,
    LAST_PLACE,
    LAST_STATE,
    LENGTH,
    LINK,
    LOG_NEXT,
    LOG_TOKEN,
    MOST_TOKENS,
    STATES,
    TOKENS,
    Arrays,
    extended,
    newest_texts,
)

CONTEXT_STATE, CONTEXT_LENGTH = 2, 3
"""Of a text: the state of its last `depth` tokens, and how many they are."""


class CountedAutomaton:
    """The memory that texts share."""

    def __init__(self, depth: int, most_tokens: int = MOST_TOKENS) -> None:
        self.depth, self.most_tokens = depth, most_tokens
        self.arrays = Arrays.empty()

    def squeeze(self) -> None:
        """As `SuffixAutomaton.squeeze`; counts are those of the texts that are kept."""
        if len(self) > self.most_tokens:
            texts = newest_texts(self.arrays, self.most_tokens // 2)
            self.arrays = Arrays.empty()
            for text in texts:
                self.open().feed(text)

    def open(self) -> CountedText:
        """Begin another text."""
        return CountedText(self)

    def __len__(self) -> int:
        """Tokens fed."""
        return int(self.arrays.counts[TOKENS])

    @property
    def states(self) -> int:
        return int(self.arrays.counts[STATES])


class CountedText:
    """One growing text, and the context it ends in."""

    def __init__(self, automaton: CountedAutomaton) -> None:
        self.automaton = automaton
        self.end = np.array([0, -1, 0, 0], dtype=np.int64)
        """As compiled functions take it."""

    def feed(self, tokens: Sequence[int] | np.ndarray) -> None:
        """Add tokens."""
        fed = np.array(tokens, dtype=np.int64)
        arrays = self.automaton.arrays
        arrays.reserve(len(fed))
        feed_counted(*arrays.all, self.end, fed, self.automaton.depth)

    def continuation(self, tokens: int, per_match: float, by_count: bool) -> list[int]:
        """What followed the longest earlier match, of up to `depth` - 1 tokens: last, or by count
        most often, token by token; up to `tokens`, and up to `per_match` a matched token."""
        arrays, depth = self.automaton.arrays, self.automaton.depth
        found = _continued(*arrays.all, self.end, depth, tokens, per_match, by_count)
        return found.tolist()

    def count(self, tokens: Sequence[int]) -> int:
        """How often a string, of up to `depth` tokens, occurs."""
        arrays = self.automaton.arrays
        return _count(*arrays.all, np.array(tokens, dtype=np.int64))


class CountedFollower:
    """A text that is looked up, token by token, in an automaton that others feed."""

    def __init__(self, automaton: CountedAutomaton) -> None:
        self.automaton = automaton
        self.end = np.array([0, -1, 0, 0], dtype=np.int64)

    def feed(self, tokens: Sequence[int]) -> None:
        """Match tokens; what is to be found of them must have been fed before."""
        arrays = self.automaton.arrays
        fed = np.array(tokens, dtype=np.int64)
        _follow_counted(*arrays.all, self.end, fed, self.automaton.depth)


@compiled
def context_of(states: np.ndarray, end: np.ndarray) -> int:
    """The state that a text's context stands at now: a split may have moved it to a link."""
    state, length = end[CONTEXT_STATE], end[CONTEXT_LENGTH]
    while state > 0 and length <= states[states[state, LINK], LENGTH]:
        state = states[state, LINK]
    end[CONTEXT_STATE] = state
    return int(state)


@compiled
def shortened(states, state, length, most):
    """The context's last `most` tokens: of strings that long, what follows is counted."""
    if length > most:
        length = most
        while states[states[state, LINK], LENGTH] >= length:
            state = int(states[state, LINK])
    return state, length


@compiled
def advance(states, edges, table, state, length, token, depth):
    """(state, length) of a context one token longer, of its longest suffix that occurs, and of the
    last `depth` tokens of that."""
    edge = find(edges, table, state, token)
    while edge < 0 and state > 0:
        state = states[state, LINK]
        length = states[state, LENGTH]
        edge = find(edges, table, state, token)
    if edge < 0:
        return 0, 0
    state, length = int(edges[edge, TO]), length + 1
    if length > depth:
        length = depth
    while states[states[state, LINK], LENGTH] >= length:
        state = int(states[state, LINK])
    return state, int(length)


@compiled
def _move_to_front(states, edges, state, edge):
    """Make an edge the first of its state's: what followed last stands first."""
    head = states[state, HEAD]
    if head == edge:
        return
    before, behind = edges[edge, PREVIOUS], edges[edge, NEXT]
    edges[before, NEXT] = behind
    if behind >= 0:
        edges[behind, PREVIOUS] = before
    edges[edge, PREVIOUS] = -1
    edges[edge, NEXT] = head
    edges[head, PREVIOUS] = edge
    states[state, HEAD] = edge


@compiled
def feed_one(counts, states, edges, table, log, end, token, depth):
    """Add one token to a text: the automaton, the counts, the order of continuations."""
    place = counts[TOKENS]
    counts[TOKENS] = place + 1
    log[place, LOG_TOKEN] = token
    log[place, LOG_NEXT] = -1
    if end[LAST_PLACE] >= 0:
        log[end[LAST_PLACE], LOG_NEXT] = place
    end[LAST_STATE] = extended(counts, states, edges, table, end[LAST_STATE], token, place)
    end[LAST_PLACE] = place
    context = context_of(states, end)
    state = context
    while state >= 0:
        _move_to_front(states, edges, state, find(edges, table, state, token))
        state = states[state, LINK]
    length = end[CONTEXT_LENGTH]
    state, length = advance(states, edges, table, context, length, token, depth)
    end[CONTEXT_STATE], end[CONTEXT_LENGTH] = state, length
    while state >= 0:
        states[state, COUNT] += 1
        state = states[state, LINK]


@compiled
def feed_counted(counts, states, edges, table, log, end, tokens, depth):
    for token in tokens:
        feed_one(counts, states, edges, table, log, end, token, depth)


@compiled
def _follow_counted(counts, states, edges, table, log, end, tokens, depth):
    for token in tokens:
        state = context_of(states, end)
        length = end[CONTEXT_LENGTH]
        state, length = advance(states, edges, table, state, length, token, depth)
        end[CONTEXT_STATE], end[CONTEXT_LENGTH] = state, length


@compiled
def _chosen(states, edges, state, by_count):
    """The edge of a state that was taken last, or most often; -1 where it has none."""
    edge = states[state, HEAD]
    if not by_count:
        return edge
    chosen, commonest = -1, 0
    while edge >= 0:
        if states[edges[edge, TO], COUNT] > commonest:
            chosen, commonest = edge, states[edges[edge, TO], COUNT]
        edge = edges[edge, NEXT]
    return chosen


@compiled
def _continued(counts, states, edges, table, log, end, depth, most, per_match, by_count):
    state, length = shortened(states, context_of(states, end), end[CONTEXT_LENGTH], depth - 1)
    # the text's own end is known too: what has a continuation occurred before
    while state > 0 and states[state, HEAD] < 0:
        state = states[state, LINK]
        length = states[state, LENGTH]
    wanted = int(min(float(most), per_match * length)) if state > 0 else 0
    found = np.empty(max(0, wanted), dtype=np.int64)
    drafted = 0
    while drafted < wanted:
        edge = _chosen(states, edges, state, by_count)
        if edge < 0:
            break
        token = edges[edge, TOKEN]
        found[drafted] = token
        drafted += 1
        state, length = advance(states, edges, table, state, length, token, depth - 1)
    return found[:drafted]


@compiled
def _count(counts, states, edges, table, log, tokens):
    state = 0
    for token in tokens:
        edge = find(edges, table, state, token)
        if edge < 0:
            return 0
        state = edges[edge, TO]
    return int(states[state, COUNT])
