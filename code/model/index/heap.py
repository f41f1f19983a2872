"""A binary heap over flat arrays: the largest key first, of equal keys the one pushed first."""

from __future__ import annotations

import numpy as np

from model.index.compiled import compiled


@compiled
def is_before(keys: np.ndarray, order: np.ndarray, a: int, b: int) -> bool:
    return keys[a] > keys[b] or (keys[a] == keys[b] and order[a] < order[b])


@compiled
def swap(keys: np.ndarray, order: np.ndarray, a: int, b: int) -> None:
    key, number = keys[a], order[a]
    keys[a], order[a] = keys[b], order[b]
    keys[b], order[b] = key, number


@compiled
def push(keys: np.ndarray, order: np.ndarray, size: int, key: float, number: int) -> int:
    """Push `number`, which grows from push to push; returns the new size.

    A full heap takes nothing more.
    """
    if size == len(keys):
        return size
    keys[size], order[size] = key, number
    at = size
    while at > 0 and is_before(keys, order, at, (at - 1) // 2):
        swap(keys, order, at, (at - 1) // 2)
        at = (at - 1) // 2
    return size + 1


@compiled
def pop(keys: np.ndarray, order: np.ndarray, size: int) -> int:
    """Move the first entry behind the heap, to [size - 1]; returns the new size."""
    size -= 1
    swap(keys, order, 0, size)
    at = 0
    while True:
        best = at
        for child in (2 * at + 1, 2 * at + 2):
            if child < size and is_before(keys, order, child, best):
                best = child
        if best == at:
            return size
        swap(keys, order, at, best)
        at = best
