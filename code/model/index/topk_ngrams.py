"""What followed every n-gram, as probabilities: the memory of STAND (Song et al. 2025, section 4).

Contexts of 1 to `CONTEXT` tokens keep the target's likeliest tokens after them, with the running
mean of their probabilities. A draft follows the longest known context at every node, its children
drawn without replacement by Gumbel-top-k (Kool et al. 2019) with the target's own position noise.

Flat arrays, some 110 bytes a context and up to `CONTEXT` new contexts a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.index.compiled import compiled, grown
from model.static_tree import StaticTree

CONTEXT = 4
"""Tokens of the longest context."""
TOP = 10
"""Tokens remembered after a context."""
NONE = -1
_HASH_MASK = (1 << 42) - 1
"""Keeps the hash's products inside 63 bits, so that they are the same where numbers do not wrap."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_ONE, _MIX_TWO = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_LOW_BITS = np.uint64(0xFFFFFFFF)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)
_FIRST_ROWS = 256
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Size, contexts, counts, tokens, chances, table."""


class TopkNgrams:
    """`learn` what the target thought after a text, `draft` along a static tree.

    Sessions share one and see what others learn at once.
    """

    def __init__(self, most_rows: int = 1 << 20) -> None:
        """Holds up to about `most_rows` contexts once `squeeze` was called."""
        self._most = most_rows
        self._clear()

    def _clear(self) -> None:
        self._size = np.zeros(1, dtype=np.int64)
        self._contexts = np.full((_FIRST_ROWS, CONTEXT), NONE, dtype=np.int32)
        self._counts = np.zeros(_FIRST_ROWS, dtype=np.int32)
        self._tokens = np.full((_FIRST_ROWS, TOP), NONE, dtype=np.int32)
        self._chances = np.zeros((_FIRST_ROWS, TOP), dtype=np.float32)
        self._table = np.full(4 * _FIRST_ROWS, NONE, dtype=np.int32)

    def __len__(self) -> int:
        """Contexts."""
        return int(self._size[0])

    @property
    def bytes(self) -> int:
        """Of all arrays."""
        return sum(array.nbytes for array in self._arrays())

    def learn(self, text: Sequence[int], tokens: np.ndarray, logprobs: np.ndarray) -> None:
        """Merge the target's likeliest tokens after each of a text's last positions.

        `tokens` and `logprobs` [N, K], best first, stand for the last N positions of `text`, which
        should begin `CONTEXT` - 1 tokens before them. Rows of tokens below 0 are not known.
        Log-probabilities count in half precision, as records hold them: so a replay learns what the
        run learnt.
        """
        self._reserve(CONTEXT * len(tokens))
        known = np.ascontiguousarray(tokens[:, :TOP], dtype=np.int32)
        recorded = logprobs[:, :TOP].astype(np.float16)
        chances = np.exp(recorded.astype(np.float32))
        _learn(*self._arrays(), np.array(text, dtype=np.int64), known, chances)

    def draft(
        self,
        recent: Sequence[int],
        tree: StaticTree,
        nodes: int,
        stop_ids: np.ndarray,
        temperature: float,
        keys: Sequence[int],
    ) -> tuple[np.ndarray, np.ndarray]:
        """(nodes of the tree, their tokens) below the last of the `recent` tokens, parents first.

        Of the tree's first `nodes` nodes those whose rank is known; nothing below a stop id.
        `keys[d]` is the noise key of the output position at depth d + 1.
        """
        parents, ranks, depths = tree.arrays
        # noise wraps around 64 bits on purpose, which plain Python would warn of
        with np.errstate(over="ignore"):
            found = _draft(
                *self._arrays(),
                np.array(recent[-CONTEXT:], dtype=np.int64),
                parents[:nodes],
                ranks[:nodes],
                depths[:nodes],
                stop_ids,
                temperature,
                np.array(keys, dtype=np.int64).view(np.uint64),
            )
        kept = np.flatnonzero(found[1:] >= 0) + 1
        return kept, found[kept]

    def row(self, context: Sequence[int]) -> tuple[list[int], list[float]]:
        """(tokens, probabilities) remembered after exactly this context, likeliest first."""
        padded = np.full(CONTEXT, NONE, dtype=np.int64)
        padded[CONTEXT - len(context) :] = context
        row = _find(self._contexts, self._table, padded, len(context))
        if row < 0:
            return [], []
        known = self._tokens[row] >= 0
        return self._tokens[row][known].tolist(), self._chances[row][known].tolist()

    def squeeze(self) -> None:
        """Where there are too many contexts, keep the half that was met most often."""
        if len(self) <= self._most:
            return
        kept = np.argsort(-self._counts[: len(self)], kind="stable")[: self._most // 2]
        kept.sort()
        contexts, counts = self._contexts[kept], self._counts[kept]
        tokens, chances = self._tokens[kept], self._chances[kept]
        self._clear()
        self._reserve(len(kept))
        rows = len(kept)
        self._contexts[:rows], self._counts[:rows] = contexts, counts
        self._tokens[:rows], self._chances[:rows] = tokens, chances
        self._size[0] = rows
        _insert_all(self._contexts, self._table, rows)

    def _arrays(self) -> Arrays:
        return (
            self._size,
            self._contexts,
            self._counts,
            self._tokens,
            self._chances,
            self._table,
        )

    def _reserve(self, more: int) -> None:
        """Make room for so many more contexts."""
        rows = len(self) + more
        self._contexts = grown(self._contexts, rows, NONE)
        self._counts = grown(self._counts, rows)
        self._tokens = grown(self._tokens, rows, NONE)
        self._chances = grown(self._chances, rows)
        if len(self._table) < 2 * len(self._contexts):
            self._table = np.full(4 * len(self._contexts), NONE, dtype=np.int32)
            _insert_all(self._contexts, self._table, len(self))


@compiled
def _slot(context: np.ndarray, length: int, size: int) -> int:
    """Where probing begins for the last `length` tokens of a context; `size` is a power of 2."""
    mixed = length
    for i in range(CONTEXT - length, CONTEXT):
        mixed = (mixed * 1000003 + int(context[i]) + 2) & _HASH_MASK
    return (mixed ^ (mixed >> 20)) & (size - 1)


@compiled
def _find(contexts: np.ndarray, table: np.ndarray, context: np.ndarray, length: int) -> int:
    """The row of the last `length` tokens of a context, -1 where there is none."""
    slot = _slot(context, length, len(table))
    while True:
        row = table[slot]
        if row < 0:
            return -1
        is_same = length == CONTEXT or contexts[row, CONTEXT - length - 1] == NONE
        for i in range(CONTEXT - length, CONTEXT):
            is_same = is_same and contexts[row, i] == context[i]
        if is_same:
            return int(row)
        slot = (slot + 1) & (len(table) - 1)


@compiled
def _insert(contexts: np.ndarray, table: np.ndarray, row: int) -> None:
    """Enter a row, which is not in it yet, into the table."""
    length = 0
    for i in range(CONTEXT):
        if contexts[row, i] >= 0:
            length += 1
    slot = _slot(contexts[row], length, len(table))
    while table[slot] >= 0:
        slot = (slot + 1) & (len(table) - 1)
    table[slot] = row


@compiled
def _insert_all(contexts: np.ndarray, table: np.ndarray, rows: int) -> None:
    for row in range(rows):
        _insert(contexts, table, row)


@compiled
def _learn(
    size: np.ndarray,
    contexts: np.ndarray,
    counts: np.ndarray,
    tokens: np.ndarray,
    chances: np.ndarray,
    table: np.ndarray,
    text: np.ndarray,
    new_tokens: np.ndarray,
    new_chances: np.ndarray,
) -> None:
    context = np.empty(CONTEXT, dtype=np.int64)
    first = len(text) - len(new_tokens)
    for i in range(len(new_tokens)):
        if new_tokens[i, 0] < 0:
            continue
        end = first + i + 1
        longest = min(CONTEXT, end)
        context[CONTEXT - longest :] = text[end - longest : end]
        for length in range(1, longest + 1):
            row = _find(contexts, table, context, length)
            if row < 0:
                row = size[0]
                size[0] += 1
                contexts[row, CONTEXT - length :] = context[CONTEXT - length :]
                _insert(contexts, table, row)
            _merge(counts, tokens, chances, row, new_tokens[i], new_chances[i])


@compiled
def _merge(
    counts: np.ndarray,
    tokens: np.ndarray,
    chances: np.ndarray,
    row: int,
    new_tokens: np.ndarray,
    new_chances: np.ndarray,
) -> None:
    """The running mean over all recurrences; a token outside a recurrence's top has chance 0."""
    count = counts[row]
    counts[row] = count + 1
    old_share = count / (count + 1.0)
    new_share = 1.0 / (count + 1.0)
    merged_tokens = np.full(2 * TOP, NONE, dtype=np.int32)
    merged = np.full(2 * TOP, -1.0, dtype=np.float64)
    known = 0
    for i in range(TOP):
        if tokens[row, i] >= 0:
            merged_tokens[known] = tokens[row, i]
            merged[known] = old_share * chances[row, i]
            known += 1
    for i in range(len(new_tokens)):
        place = 0
        while place < known and merged_tokens[place] != new_tokens[i]:
            place += 1
        if place == known:
            merged_tokens[known] = new_tokens[i]
            merged[known] = 0.0
            known += 1
        merged[place] += new_share * new_chances[i]
    for i in range(min(TOP, known)):
        best = i
        for j in range(i + 1, known):
            if merged[j] > merged[best]:
                best = j
        merged[i], merged[best] = merged[best], merged[i]
        merged_tokens[i], merged_tokens[best] = merged_tokens[best], merged_tokens[i]
        tokens[row, i] = merged_tokens[i]
        chances[row, i] = merged[i]


@compiled
def _noise(key: int, token: int) -> float:
    """The exponential noise of a token at a position: `engine.noise.exponential`, one number."""
    z = key + np.uint64(token) * _GOLDEN
    z = (z ^ (z >> _30)) * _MIX_ONE
    z = (z ^ (z >> _27)) * _MIX_TWO
    bits = (z ^ (z >> _31)) & _LOW_BITS
    return -np.log1p((float(bits) + 0.5) * -(2.0**-32))


@compiled
def _ranking(
    tokens: np.ndarray,
    chances: np.ndarray,
    row: int,
    temperature: float,
    key: int,
    ranked: np.ndarray,
) -> None:
    """A row's tokens, best first, into `ranked`; by probability alone at temperature 0."""
    scores = np.full(TOP, -np.inf, dtype=np.float64)
    for i in range(TOP):
        ranked[i] = tokens[row, i]
        if tokens[row, i] < 0 or chances[row, i] <= 0:
            continue
        scores[i] = np.log(float(chances[row, i]))
        if temperature > 0:
            scores[i] = scores[i] / temperature - np.log(_noise(key, tokens[row, i]))
    for i in range(TOP):
        best = i
        for j in range(i + 1, TOP):
            if scores[j] > scores[best]:
                best = j
        scores[i], scores[best] = scores[best], scores[i]
        ranked[i], ranked[best] = ranked[best], ranked[i]


@compiled
def _draft(
    size: np.ndarray,
    contexts: np.ndarray,
    counts: np.ndarray,
    tokens: np.ndarray,
    chances: np.ndarray,
    table: np.ndarray,
    recent: np.ndarray,
    parents: np.ndarray,
    ranks: np.ndarray,
    depths: np.ndarray,
    stop_ids: np.ndarray,
    temperature: float,
    keys: np.ndarray,
) -> np.ndarray:
    """The token of every node of the tree, -1 for what is not known or stands below a stop id."""
    nodes = len(parents)
    found = np.full(nodes, NONE, dtype=np.int64)
    found[0] = recent[-1]
    before = np.full((nodes, CONTEXT), NONE, dtype=np.int64)
    before[0, CONTEXT - len(recent) :] = recent
    ranked = np.full((nodes, TOP), NONE, dtype=np.int32)
    is_ranked = np.zeros(nodes, dtype=np.bool_)
    for node in range(1, nodes):
        parent = parents[node]
        if found[parent] < 0:
            continue
        if not is_ranked[parent]:
            is_ranked[parent] = True
            is_stop = False
            for stop in stop_ids:
                is_stop = is_stop or (parent > 0 and found[parent] == stop)
            length = 0 if is_stop else CONTEXT
            while length > 0:
                if before[parent, CONTEXT - length] >= 0:
                    row = _find(contexts, table, before[parent], length)
                    if row >= 0:
                        key = keys[depths[parent]]
                        _ranking(tokens, chances, row, temperature, key, ranked[parent])
                        break
                length -= 1
        token = ranked[parent, ranks[node]]
        if token >= 0:
            found[node] = token
            before[node, : CONTEXT - 1] = before[parent, 1:]
            before[node, CONTEXT - 1] = token
    return found
