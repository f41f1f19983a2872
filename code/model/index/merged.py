"""Two drafted trees as one: equal paths are one node, the likeliest nodes are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NodeChances:
    """A tree below a root, parents first, with each node's chance of being emitted.

    Parents count the root as node 0; a node's chance is at most its parent's.
    """

    tokens: list[int]
    parents: list[int]
    chances: list[float]


def merged(first: NodeChances, second: NodeChances, prices: np.ndarray, most: int) -> NodeChances:
    """The up to `most` likeliest nodes of both, the n-th only where it is worth prices[n].

    Of a node in both the higher chance counts.
    """
    number: dict[tuple[int, int], int] = {}
    tokens, parents, chances = [0], [-1], [1.0]
    for tree in (first, second):
        new_number = [0]
        for token, parent, chance in zip(tree.tokens, tree.parents, tree.chances, strict=True):
            key = (new_number[parent], token)
            node = number.get(key)
            if node is None:
                node = number[key] = len(tokens)
                tokens.append(token)
                parents.append(key[0])
                chances.append(0.0)
            chances[node] = max(chances[node], chance)
            new_number.append(node)
    best_first = sorted(range(1, len(tokens)), key=lambda node: (-chances[node], node))
    return _kept(tokens, parents, chances, best_first, prices, most)


def _kept(
    tokens: list[int],
    parents: list[int],
    chances: list[float],
    best_first: list[int],
    prices: np.ndarray,
    most: int,
) -> NodeChances:
    new_number = {0: 0}
    kept: list[int] = []
    for node in best_first:
        is_dear = chances[node] < prices[min(len(kept), len(prices) - 1)]
        if len(kept) == most or is_dear:
            break
        if parents[node] in new_number:
            kept.append(node)
            new_number[node] = len(kept)
    return NodeChances(
        [tokens[node] for node in kept],
        [new_number[parents[node]] for node in kept],
        [chances[node] for node in kept],
    )
