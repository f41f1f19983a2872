"""The edges of a graph over flat arrays: node and token lead to a node, by hash and by list.

What automata and tries here share. An edge is a row of `edges`; a node's edges form a list through
NEXT and back through PREVIOUS, from the node's own `head`; `table` finds an edge by (node, token),
with open addressing and linear probing.
"""

from __future__ import annotations

import numpy as np

from model.index.compiled import compiled

SOURCE, TOKEN, TO, NEXT, PREVIOUS = range(5)
COLUMNS = 5
"""Of `edges`, int32."""


def table_for(edges: int) -> np.ndarray:
    """An empty hash table that so many edges fill by half at most."""
    size = 16
    while size < 2 * edges:
        size *= 2
    return np.full(size, -1, dtype=np.int32)


@compiled
def slot_of(node: int, token: int, size: int) -> int:
    """Where probing begins; both numbers stay below 2**31, so nothing overflows 64 bits."""
    mixed = int(node) * 1640531527 + int(token) * 1013904223
    mixed ^= mixed >> 17
    return mixed & (size - 1)


@compiled
def find(edges: np.ndarray, table: np.ndarray, node: int, token: int) -> int:
    """The edge from `node` by `token`, -1 where there is none."""
    slot = slot_of(node, token, len(table))
    while True:
        edge = table[slot]
        if edge < 0:
            return -1
        if edges[edge, SOURCE] == node and edges[edge, TOKEN] == token:
            return int(edge)
        slot = (slot + 1) & (len(table) - 1)


@compiled
def insert(edges: np.ndarray, table: np.ndarray, edge: int) -> None:
    """Enter an edge, which is not in it yet, into the table."""
    slot = slot_of(edges[edge, SOURCE], edges[edge, TOKEN], len(table))
    while table[slot] >= 0:
        slot = (slot + 1) & (len(table) - 1)
    table[slot] = edge


@compiled
def insert_all(edges: np.ndarray, table: np.ndarray, count: int) -> None:
    """Enter the first `count` edges into an empty table."""
    for edge in range(count):
        insert(edges, table, edge)
