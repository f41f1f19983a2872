"""An online suffix automaton of several texts that may grow at once.

Blumer et al. 1985, generalised to several strings (Mohri, Moreno and Weinstein 2009: each string
keeps its own last state, and a transition that is there already is followed or split, not made
anew); as a drafter's memory in SAM-Decoding (Hu et al. 2024). Amortised O(1) a token, at most 2
states and 3 transitions: 100 to 250 bytes a token, as its arrays double.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from model.index.compiled import compiled, grown
from model.index.edges import (
    COLUMNS,
    NEXT,
    PREVIOUS,
    SOURCE,
    TO,
    TOKEN,
    find,
    insert,
    insert_all,
    table_for,
)

LINK, LENGTH, FIRST_END, HEAD, KINDS, COUNT = range(6)
"""Columns of `states`, int32. FIRST_END is a place in the log, HEAD the first of its edges, KINDS
how many it has; COUNT is kept where occurrences are counted (`counted_automaton.py`)."""
STATE_COLUMNS = 6
LOG_TOKEN, LOG_NEXT = range(2)
"""Columns of `log`, int32: every token of every text as it came, and its text's next place."""
STATES, EDGES, TOKENS = range(3)
"""How many of each there are."""
MOST_TOKENS = 2_000_000
"""Of a memory that is kept for a whole run: half a gigabyte at most."""
LAST_STATE, LAST_PLACE = range(2)
"""Of a text: the state of its whole, and its last place in the log."""


@dataclass
class Arrays:
    """An automaton's flat arrays."""

    counts: np.ndarray
    states: np.ndarray
    edges: np.ndarray
    table: np.ndarray
    log: np.ndarray
    _room: int = 0
    """Tokens there is room for."""

    def __post_init__(self) -> None:
        self.all = (self.counts, self.states, self.edges, self.table, self.log)
        """As compiled functions take them."""

    @classmethod
    def empty(cls) -> Arrays:
        """With its initial state, 0."""
        counts = np.array([1, 0, 0], dtype=np.int64)
        states = np.zeros((64, STATE_COLUMNS), dtype=np.int32)
        states[0] = (-1, 0, -1, -1, 0, 0)
        edges = np.zeros((128, COLUMNS), dtype=np.int32)
        log = np.zeros((64, 2), dtype=np.int32)
        made = cls(counts, states, edges, table_for(len(edges)), log)
        made.reserve(20)
        return made

    def reserve(self, tokens: int) -> None:
        """Make room for so many more tokens."""
        total = int(self.counts[TOKENS]) + tokens
        if total <= self._room:
            return
        total = max(total, 2 * self._room)
        self._room = total
        self.log = grown(self.log, total)
        self.states = grown(self.states, 2 * total + 2)
        edges = grown(self.edges, 3 * total + 8)
        if edges is not self.edges:
            self.edges, self.table = edges, table_for(len(edges))
            insert_all(self.edges, self.table, int(self.counts[EDGES]))
        self.all = (self.counts, self.states, self.edges, self.table, self.log)


def newest_texts(arrays: Arrays, most: int) -> list[np.ndarray]:
    """The texts that began last, whole ones of up to `most` tokens together, oldest first."""
    log = arrays.log[: int(arrays.counts[TOKENS])]
    is_first = np.ones(len(log), dtype=bool)
    following = log[:, LOG_NEXT]
    is_first[following[following >= 0]] = False
    texts: list[np.ndarray] = []
    for first in reversed(np.flatnonzero(is_first)):
        text = np.concatenate([log[first : first + 1, LOG_TOKEN], _following(log, first, most)])
        most -= len(text)
        if most < 0:
            break
        texts.append(text)
    return texts[::-1]


class SuffixAutomaton:
    """The memory that texts share: each is matched against all that was fed before."""

    def __init__(self, most_tokens: int = MOST_TOKENS) -> None:
        self.most_tokens = most_tokens
        self.arrays = Arrays.empty()

    def squeeze(self) -> None:
        """Where there are more than `most_tokens`, keep the newest texts of half as many.

        No text may be under way.
        """
        if len(self) > self.most_tokens:
            texts = newest_texts(self.arrays, self.most_tokens // 2)
            self.arrays = Arrays.empty()
            for text in texts:
                self.open().feed(text)

    def open(self) -> Text:
        """Begin another text: no match and no draft runs from one text into the next."""
        return Text(self.arrays)

    def __len__(self) -> int:
        """Tokens fed."""
        return int(self.arrays.counts[TOKENS])

    @property
    def states(self) -> int:
        return int(self.arrays.counts[STATES])


class Text:
    """One growing text in an automaton.

    The longest suffix that occurred before needs no search: it is the text's own state where
    another text has been there first, else the state that links to.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._end = np.array([0, -1], dtype=np.int64)

    @property
    def match_state(self) -> int:
        """The state of the longest suffix of this text that occurred before; 0 without one."""
        return _match_state(self._arrays.states, self._end)

    @property
    def match_length(self) -> int:
        """Its tokens."""
        return int(self._arrays.states[self.match_state, LENGTH])

    @property
    def match_end(self) -> int:
        """Where in the log it ended first; -1 without a match."""
        return int(self._arrays.states[self.match_state, FIRST_END])

    @property
    def end_state(self) -> int:
        """The state whose longest string is the whole text."""
        return int(self._end[LAST_STATE])

    def feed(self, tokens: Sequence[int] | np.ndarray) -> None:
        """Add tokens."""
        self.feed_and_measure(tokens)

    def feed_and_measure(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Add tokens; the length of the longest match after every one, [tokens]."""
        fed = np.array(tokens, dtype=np.int64)
        self._arrays.reserve(len(fed))
        return _feed(*self._arrays.all, self._end, fed)

    def continuation(self, tokens: int, per_match: float = np.inf) -> list[int]:
        """What followed the longest earlier match: up to `tokens` tokens, and up to `per_match` of
        them for every matched one."""
        return _continuation(*self._arrays.all, self._end, tokens, per_match).tolist()

    def roomy_continuation(self, tokens: int, shortest: int) -> list[int]:
        """What followed the longest match, of at least `shortest`, that `tokens` tokens follow.

        Shorter suffixes occur earlier, so climbing the links finds more text to copy; where no
        match of that length has enough, it is what followed the longest match.
        """
        if tokens < 1:
            return []
        return _roomy_continuation(*self._arrays.all, self._end, tokens, shortest).tolist()

    def lookup(self, longest: int, tokens: int, is_partial: bool) -> list[int]:
        """What followed the oldest occurrence of the longest n-gram of the text's end, of up to
        `longest` tokens, that `tokens` tokens follow (`is_partial`: or fewer)."""
        return _lookup(*self._arrays.all, self._end, longest, tokens, is_partial).tolist()

    def longest_copy(self, tokens: np.ndarray, begin: int) -> int:
        """How many of tokens[begin:] stand in a row somewhere in what was fed."""
        return _walked(*self._arrays.all, tokens, begin)


class Follower:
    """A text that is matched against an automaton, but not added to it."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._match = np.zeros(2, dtype=np.int64)

    @property
    def match_state(self) -> int:
        """The state of the longest suffix of this text that the automaton holds."""
        return int(self._match[0])

    @property
    def match_length(self) -> int:
        return int(self._match[1])

    def feed(self, tokens: Iterable[int]) -> None:
        _follow(*self._arrays.all, self._match, np.fromiter(tokens, dtype=np.int64))


def ends_of(text: Text, tokens: Iterable[int]) -> np.ndarray:
    """Feed a text token by token: the state it ends in after every one, [tokens]."""
    ends = []
    for token in tokens:
        text.feed((token,))
        ends.append(text.end_state)
    return np.array(ends, dtype=np.int64)


@compiled
def _match_state(states: np.ndarray, end: np.ndarray) -> int:
    last = end[LAST_STATE]
    if last == 0 or states[last, FIRST_END] != end[LAST_PLACE]:
        return int(last)
    return int(states[last, LINK])


@compiled
def _add_edge(counts, states, edges, table, source, token, to):
    edge = counts[EDGES]
    counts[EDGES] = edge + 1
    edges[edge, SOURCE] = source
    edges[edge, TOKEN] = token
    edges[edge, TO] = to
    head = states[source, HEAD]
    edges[edge, NEXT] = head
    edges[edge, PREVIOUS] = -1
    if head >= 0:
        edges[head, PREVIOUS] = edge
    states[source, HEAD] = edge
    states[source, KINDS] += 1
    insert(edges, table, edge)


@compiled
def _new_state(counts, states, link, length, first_end):
    state = counts[STATES]
    counts[STATES] = state + 1
    states[state, LINK] = link
    states[state, LENGTH] = length
    states[state, FIRST_END] = first_end
    states[state, HEAD] = -1
    states[state, KINDS] = 0
    states[state, COUNT] = 0
    return state


@compiled
def _split(counts, states, edges, table, original, state, token):
    """Split off the shorter strings of `original`, which `token` leads to from `state` up."""
    length = states[state, LENGTH] + 1
    clone = _new_state(counts, states, states[original, LINK], length, states[original, FIRST_END])
    states[clone, COUNT] = states[original, COUNT]
    edge = states[original, HEAD]
    while edge >= 0 and edges[edge, NEXT] >= 0:
        edge = edges[edge, NEXT]
    while edge >= 0:  # from the last one on, so that the order stays
        _add_edge(counts, states, edges, table, clone, edges[edge, TOKEN], edges[edge, TO])
        edge = edges[edge, PREVIOUS]
    while state >= 0:
        edge = find(edges, table, state, token)
        if edge < 0 or edges[edge, TO] != original:
            break
        edges[edge, TO] = clone
        state = states[state, LINK]
    states[original, LINK] = clone
    return clone


@compiled
def extended(counts, states, edges, table, last, token, place):
    """The state of the text that ends in `last`, one token longer."""
    edge = find(edges, table, last, token)
    if edge >= 0:  # another text has been here
        to = edges[edge, TO]
        if states[to, LENGTH] == states[last, LENGTH] + 1:
            return int(to)
        return _split(counts, states, edges, table, to, last, token)
    new = _new_state(counts, states, 0, states[last, LENGTH] + 1, place)
    state = last
    while state >= 0 and edge < 0:
        _add_edge(counts, states, edges, table, state, token, new)
        state = states[state, LINK]
        if state >= 0:
            edge = find(edges, table, state, token)
    if edge >= 0:
        to = edges[edge, TO]
        if states[to, LENGTH] != states[state, LENGTH] + 1:
            to = _split(counts, states, edges, table, to, state, token)
        states[new, LINK] = to
    return int(new)


@compiled
def _feed(counts, states, edges, table, log, end, tokens):
    lengths = np.empty(len(tokens), dtype=np.int64)
    for i in range(len(tokens)):
        place = counts[TOKENS]
        counts[TOKENS] = place + 1
        log[place, LOG_TOKEN] = tokens[i]
        log[place, LOG_NEXT] = -1
        if end[LAST_PLACE] >= 0:
            log[end[LAST_PLACE], LOG_NEXT] = place
        last = extended(counts, states, edges, table, end[LAST_STATE], tokens[i], place)
        end[LAST_STATE], end[LAST_PLACE] = last, place
        lengths[i] = states[_match_state(states, end), LENGTH]
    return lengths


@compiled
def _follow(counts, states, edges, table, log, match, tokens):
    state, length = match[0], match[1]
    for token in tokens:
        edge = find(edges, table, state, token)
        while edge < 0 and state > 0:
            state = states[state, LINK]
            length = states[state, LENGTH]
            edge = find(edges, table, state, token)
        state, length = (edges[edge, TO], length + 1) if edge >= 0 else (0, 0)
    match[0], match[1] = state, length


@compiled
def _continuation(counts, states, edges, table, log, end, most, per_match):
    state = _match_state(states, end)
    wanted = min(float(most), per_match * states[state, LENGTH]) if state > 0 else 0.0
    return _copied(states, edges, log, end, state, int(max(0.0, wanted)))


@compiled
def _following(log: np.ndarray, end: int, most: int) -> np.ndarray:
    """Up to `most` tokens behind a place in the log; -1 is no place."""
    found = np.empty(most, dtype=np.int64)
    count = 0
    place = log[end, LOG_NEXT] if end >= 0 else -1
    while place >= 0 and count < most:
        found[count] = log[place, LOG_TOKEN]
        count += 1
        place = log[place, LOG_NEXT]
    return found[:count]


@compiled
def _copied(states, edges, log, end, state, most):
    """What followed a state's strings where they ended first.

    Where that is the text's own end, another text under way has written them since: what this one
    went on with is copied, token by token what came last.
    """
    if states[state, FIRST_END] != end[LAST_PLACE] or end[LAST_PLACE] < 0:
        return _following(log, states[state, FIRST_END], most)
    found = np.empty(most, dtype=np.int64)
    count = 0
    edge = states[state, HEAD]
    while edge >= 0 and count < most:
        found[count] = edges[edge, TOKEN]
        count += 1
        edge = states[edges[edge, TO], HEAD]
    return found[:count]


@compiled
def _roomy_continuation(counts, states, edges, table, log, end, most, shortest):
    state = _match_state(states, end)
    longest = _copied(states, edges, log, end, state, most)
    found = longest
    while len(found) < most:
        state = states[state, LINK] if state > 0 else 0
        if states[state, LENGTH] < max(1, shortest):
            return longest
        found = _copied(states, edges, log, end, state, most)
    return found


@compiled
def _lookup(counts, states, edges, table, log, end, longest, most, is_partial):
    state = _match_state(states, end)
    n = min(longest, states[state, LENGTH])
    while n > 0:
        while states[states[state, LINK], LENGTH] >= n:
            state = int(states[state, LINK])
        found = _following(log, states[state, FIRST_END], most)
        if len(found) == most or (is_partial and len(found) > 0):
            return found
        n -= 1
    return np.empty(0, dtype=np.int64)


@compiled
def _walked(counts, states, edges, table, log, tokens, begin):
    state, at = 0, begin
    while at < len(tokens):
        edge = find(edges, table, state, tokens[at])
        if edge < 0:
            break
        state = edges[edge, TO]
        at += 1
    return at - begin
