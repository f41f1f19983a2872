"""A trie of what followed every token, with input and output frequencies: the memory of PIA (Zhao
et al. 2024).

For every token a trie of the up to `length` tokens that came after it. Frequencies of prompts
("input") hold for the current request only, those of outputs until the trie is pruned. Flat arrays,
some 60 bytes a node; a text of distinct tokens makes `length` + 1 nodes a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.index.compiled import compiled, grown
from model.index.edges import find, insert, table_for
from model.index.heap import pop, push

PARENT, TOKEN, FIRST, LAST, NEXT, REQUEST = range(6)
"""Columns of `nodes`, int32. A node is its own edge: PARENT and TOKEN lead to it. Children form a
list from FIRST to LAST through NEXT, the oldest first. INPUT counts only in its REQUEST."""
COLUMNS = 6
INPUT, OUTPUT = range(2)
"""Columns of `frequencies`, float64."""
HEAP = 1 << 16


class NgramTrie:
    """`put` whole windows, `best` the likeliest tree of continuations; `squeeze` prunes what grew
    too large.
    """

    def __init__(self, length: int, max_nodes: int = 65536, max_output_nodes: int = 512) -> None:
        self.length = length
        self._limits = (max_nodes, max_output_nodes)
        self._touched: set[int] = set()
        self._request = 0
        self._size = np.ones(1, dtype=np.int64)  # node 0 stands above all tokens
        self._nodes = np.zeros((256, COLUMNS), dtype=np.int32)
        self._nodes[0] = (-1, -1, -1, -1, -1, -1)
        self._frequencies = np.zeros((256, 2), dtype=np.float64)
        self._table = table_for(256)

    def __len__(self) -> int:
        """Nodes."""
        return int(self._size[0])

    def new_request(self) -> None:
        """Input frequencies of earlier requests no longer count."""
        self._request += 1

    def put(
        self, tokens: Sequence[int], is_output: bool, first: int = 0, last: int | None = None
    ) -> None:
        """Add for each position first..last-1 the window of tokens after it."""
        last = len(tokens) - 1 if last is None else last
        if last <= first:
            return
        self._touched.update(tokens[first:last])
        window = np.array(tokens[first : last + self.length], dtype=np.int64)
        self._reserve((last - first) * (self.length + 1))
        request = -1 if is_output else self._request
        _put(*self._arrays(), window, last - first, self.length, request)

    def find(self, context: Sequence[int]) -> int | None:
        """The node after `context`, or None."""
        node = 0
        for token in context:
            node = find(self._nodes, self._table, node, token)
            if node < 0:
                return None
        return node

    def best(
        self, node: int, limit: int, depth: int, output_weight: float
    ) -> tuple[list[int], list[int]]:
        """(tokens, parents) of the best-scored tree below `node`: parents (-1: `node` itself) come
        first.

        A node's score is (1 - w) * input + w * output frequency; what only an earlier prompt held
        scores nothing and is left out.
        """
        if limit < 1:
            return [], []
        arrays = self._arrays()
        tokens, parents = _best(*arrays, node, limit, depth, output_weight, self._request)
        return tokens.tolist(), parents.tolist()

    def frequencies(self, context: Sequence[int]) -> tuple[float, float]:
        """(input, output) frequency of a string that begins with one of the tries' tokens."""
        node = self.find(context)
        if node is None:
            return 0.0, 0.0
        is_current = self._nodes[node, REQUEST] == self._request
        inputs, outputs = self._frequencies[node].tolist()
        return inputs if is_current else 0.0, outputs

    def squeeze(self, least_touched: int = 1024) -> None:
        """Once many tries were touched, halve output frequencies and drop rare nodes in those that
        grew too large.
        """
        if len(self._touched) < least_touched:
            return
        touched = np.array(sorted(self._touched), dtype=np.int64)
        kept = _pruned(*self._arrays(), touched, *self._limits)
        if kept >= 0:
            self._compact(kept)
        self._touched.clear()

    def _compact(self, kept: int) -> None:
        """Renumber what is left, in its order."""
        nodes = np.zeros((max(256, kept), COLUMNS), dtype=np.int32)
        frequencies = np.zeros((len(nodes), 2), dtype=np.float64)
        table = table_for(len(nodes))
        _copied(*self._arrays(), nodes, frequencies, table)
        self._nodes, self._frequencies, self._table = nodes, frequencies, table
        self._size[0] = kept

    def _reserve(self, more: int) -> None:
        """Make room for so many more nodes."""
        total = len(self) + more
        nodes = grown(self._nodes, total)
        if nodes is self._nodes:
            return
        self._nodes = nodes
        self._frequencies = grown(self._frequencies, len(nodes))
        self._table = table_for(len(nodes))
        _insert_all(self._nodes, self._table, len(self))

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self._size, self._nodes, self._frequencies, self._table


@compiled
def _insert_all(nodes: np.ndarray, table: np.ndarray, count: int) -> None:
    for node in range(1, count):
        insert(nodes, table, node)


@compiled
def _child(size, nodes, frequencies, table, node, token):
    """The child of a node by a token, made where there is none."""
    child = find(nodes, table, node, token)
    if child >= 0:
        return child
    child = int(size[0])
    size[0] = child + 1
    nodes[child, PARENT], nodes[child, TOKEN] = node, token
    nodes[child, FIRST], nodes[child, LAST], nodes[child, NEXT] = -1, -1, -1
    nodes[child, REQUEST] = -1
    frequencies[child, INPUT], frequencies[child, OUTPUT] = 0.0, 0.0
    last = nodes[node, LAST]
    if last >= 0:
        nodes[last, NEXT] = child
    else:
        nodes[node, FIRST] = child
    nodes[node, LAST] = child
    insert(nodes, table, child)
    return child


@compiled
def _put(size, nodes, frequencies, table, tokens, positions, length, request):
    """Windows of the first `positions` tokens; `request` is -1 for outputs."""
    for i in range(positions):
        node = _child(size, nodes, frequencies, table, 0, tokens[i])
        for j in range(i + 1, min(i + 1 + length, len(tokens))):
            node = _child(size, nodes, frequencies, table, node, tokens[j])
            if request < 0:
                frequencies[node, OUTPUT] += 1.0
            elif nodes[node, REQUEST] == request:
                frequencies[node, INPUT] += 1.0
            else:
                nodes[node, REQUEST] = request
                frequencies[node, INPUT] = 1.0


@compiled
def _best(size, nodes, frequencies, table, node, limit, depth, weight, request):
    keys = np.empty(HEAP, dtype=np.float64)
    order = np.empty(HEAP, dtype=np.int64)
    above = np.empty((HEAP, 2), dtype=np.int64)  # its parent in the draft, and the node itself
    tokens = np.empty(limit, dtype=np.int64)
    parents = np.empty(limit, dtype=np.int64)
    levels = np.zeros(limit + 1, dtype=np.int64)
    heap_size = pushed = drafted = 0
    parent = -1
    while True:
        level = levels[parent] + 1 if parent >= 0 else 1
        child = nodes[node, FIRST] if level <= depth else -1
        while child >= 0 and pushed < HEAP:
            score = weight * frequencies[child, OUTPUT]
            if nodes[child, REQUEST] == request:
                score += (1.0 - weight) * frequencies[child, INPUT]
            if score > 0:
                above[pushed, 0], above[pushed, 1] = parent, child
                heap_size = push(keys, order, heap_size, score, level * HEAP + pushed)
                pushed += 1
            child = nodes[child, NEXT]
        if heap_size == 0 or drafted == limit:
            return tokens[:drafted], parents[:drafted]
        heap_size = pop(keys, order, heap_size)
        number = order[heap_size] % HEAP
        node = above[number, 1]
        tokens[drafted], parents[drafted] = nodes[node, TOKEN], above[number, 0]
        levels[drafted] = order[heap_size] // HEAP
        parent = drafted
        drafted += 1


@compiled
def _pruned(size, nodes, frequencies, table, touched, most_nodes, most_outputs):
    """Halve and drop in the touched tries that are too large; returns how many nodes are left, -1
    where nothing was dropped. What is dropped has PARENT -2."""
    count = int(size[0])
    root_of = np.empty(count, dtype=np.int64)
    of_trie = np.zeros(count, dtype=np.int64)
    outputs = np.zeros(count, dtype=np.int64)
    for node in range(1, count):  # parents come before their children
        parent = nodes[node, PARENT]
        root_of[node] = node if parent == 0 else root_of[parent]
        of_trie[root_of[node]] += 1
        outputs[root_of[node]] += frequencies[node, OUTPUT] > 0
    is_large = np.zeros(count, dtype=np.bool_)
    for token in touched:
        root = find(nodes, table, 0, token)
        if root > 0 and (of_trie[root] > most_nodes or outputs[root] > most_outputs):
            is_large[root] = True
    dropped = 0
    for node in range(1, count):
        root = root_of[node]
        if node == root or not is_large[root]:
            continue
        parent = nodes[node, PARENT]
        if nodes[parent, PARENT] == -2 or not frequencies[node, OUTPUT] > 1.0:
            nodes[node, PARENT] = -2
            dropped += 1
        else:
            frequencies[node, OUTPUT] /= 2.0
    return count - dropped if is_large.any() else -1


@compiled
def _copied(size, nodes, frequencies, table, new_nodes, new_frequencies, new_table):
    """Copy what is not dropped."""
    new_size = np.ones(1, dtype=np.int64)
    new_nodes[0] = (-1, -1, -1, -1, -1, -1)
    number = np.zeros(size[0], dtype=np.int64)
    for node in range(1, size[0]):
        parent = nodes[node, PARENT]
        if parent == -2:
            continue
        new = _child(
            new_size, new_nodes, new_frequencies, new_table, number[parent], nodes[node, TOKEN]
        )
        number[node] = new
        new_nodes[new, REQUEST] = nodes[node, REQUEST]
        new_frequencies[new, INPUT] = frequencies[node, INPUT]
        new_frequencies[new, OUTPUT] = frequencies[node, OUTPUT]
