"""Token Recycling (Luo et al. 2024): remember each token's likeliest successors, expand a tree.

The target's top-k next tokens at every verified node, rejected ones included, overwrite that
token's row of an adjacency matrix; a draft follows the rows down a static tree of 80 nodes
("2.2.2"). Rows not seen yet stay unset and their nodes are pruned. The prompt's logits are not
used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from model.contract import Context, Draft, Drafter, Needs, StepOut, option
from model.engine.model import Model
from model.static_tree import Path, StaticTree

REPLAY_NEEDS = "the target's likeliest tokens"

CHILDREN: dict[Path, int] = {
    (): 8,
    **{(i,): n for i, n in enumerate((8, 4, 3, 2, 1, 1, 1, 1))},
    **{(0, i): n for i, n in enumerate((8, 3, 2, 1, 1, 1, 1, 1))},
    **{(1, 0): 2, (1, 1): 1, (2, 0): 1, (3, 0): 1, (4, 0): 1, (5, 0): 1},
    **{(0, 0, i): n for i, n in enumerate((5, 2, 1, 1, 1))},
    **{(0, 1, 0): 1, (0, 2, 0): 1, (0, 3, 0): 1, (1, 0, 0): 1, (2, 0, 0): 1},
    **{(0, 0, 0, i): n for i, n in enumerate((3, 1, 1))},
    **{(0, 0, 1, 0): 1, (0, 1, 0, 0): 1, (1, 0, 0, 0): 1},
    **{(0, 0, 0, 0, 0): 2, (0, 0, 0, 1, 0): 1},
}
"""The static tree: how many children a node has; nodes not named have none."""

RANK_CHANCE = (0.6, 0.15, 0.07, 0.04, 0.03, 0.02, 0.015, 0.01)
"""How a capped tree is chosen: by the product of these chances that the child of a rank is the
target's token. Rounded from the acceptance by rank of the mini target; only their order matters,
and only under --max-nodes."""


@dataclass(frozen=True)
class Config:
    recycling_topk: int = option(8, "successors remembered for a token", "--output-id-topk")


def static_tree(ranks: int) -> StaticTree:
    """The static tree without children of rank `ranks` and beyond."""
    chances: dict[Path, float] = {}
    for parent, children in CHILDREN.items():
        for rank in range(min(children, ranks)):
            path = (*parent, rank)
            if max(path) < ranks:
                chances[path] = math.prod(RANK_CHANCE[rank] for rank in path)
    return StaticTree.of(chances)


class Recycling(Drafter):
    scope = "question"

    def __init__(self, config: Config, vocab_size: int) -> None:
        topk = config.recycling_topk
        self.tree = static_tree(topk)
        self.needs = Needs(max_nodes=len(self.tree), target_topk=topk, learns_from_rejected=True)
        self._size = (vocab_size, topk)
        self._parents = np.array(self.tree.parents)
        self._ranks = np.array(self.tree.ranks)
        self._chances = np.array(self.tree.chances)
        self._levels: dict[int, list[np.ndarray]] = {}
        self.forget()

    def forget(self) -> None:
        self.matrix = np.full(self._size, -1, dtype=np.int32)

    def propose(self, context: Context) -> Draft:
        nodes = min(context.max_nodes, len(self._parents))
        tokens = np.full(nodes, -1, dtype=np.int32)
        tokens[0] = context.root
        for level in self._by_depth(nodes):
            parent_tokens = tokens[self._parents[level]]
            successors = self.matrix[parent_tokens, self._ranks[level]]
            tokens[level] = np.where(parent_tokens >= 0, successors, -1)
        kept = np.flatnonzero(tokens >= 0)
        # the last entry stands for the root's parent, -1
        new_number = np.full(nodes + 1, -1, dtype=np.int64)
        new_number[kept] = np.arange(len(kept))
        parents = new_number[self._parents[kept]]
        return Draft.tree(
            context.root,
            tokens[kept[1:]].tolist(),
            parents[1:].tolist(),
            "recycling",
            self._chances[kept[1:]].tolist(),
        )

    def observe(self, out: StepOut) -> None:
        if out.target_topk is None:
            return
        # of equal tokens in the tree the last node wins: numpy assigns repeated indices in order
        candidates = out.draft.tokens[: out.draft.candidates]
        rows = np.fromiter(candidates, dtype=np.int64)
        successors = out.target_topk[:, : self.matrix.shape[1]]
        is_known = successors[:, 0] >= 0  # a replay may know them at the kept nodes only
        self.matrix[rows[is_known]] = successors[is_known]

    def _by_depth(self, nodes: int) -> list[np.ndarray]:
        """Node numbers of each depth below the root among the first nodes."""
        if nodes not in self._levels:
            depths = np.array(self.tree.depths[:nodes])
            deepest = depths.max(initial=0)
            levels = [np.flatnonzero(depths == depth) for depth in range(1, deepest + 1)]
            self._levels[nodes] = levels
        return self._levels[nodes]


def build(config: Config, model: Model) -> Drafter:
    return Recycling(config, model.vocab_size)
