"""Token Recycling (Luo et al. 2024): remember each token's likeliest successors, expand a fixed tree of them.

The target's top-k next tokens at every verified node, rejected ones included, overwrite that token's row of an
adjacency matrix; a draft follows the rows down a static tree of 80 nodes ("2.2.2"). Rows not seen yet stay unset and
their nodes are pruned. The prompt's logits are not used.
"""

from dataclasses import dataclass

import numpy as np

from model.draft import Context, Draft, Drafter, Needs, StepOut, option
from model.engine.target import Target

# child counts of the static tree; paths are ranks from the root; nodes not named have no children
TREE = {
    (): 8,
    **{(i,): c for i, c in enumerate((8, 4, 3, 2, 1, 1, 1, 1))},
    **{(0, i): c for i, c in enumerate((8, 3, 2, 1, 1, 1, 1, 1))},
    (1, 0): 2, (1, 1): 1, (2, 0): 1, (3, 0): 1, (4, 0): 1, (5, 0): 1,
    **{(0, 0, i): c for i, c in enumerate((5, 2, 1, 1, 1))},
    (0, 1, 0): 1, (0, 2, 0): 1, (0, 3, 0): 1, (1, 0, 0): 1, (2, 0, 0): 1,
    (0, 0, 0, 0): 3, (0, 0, 0, 1): 1, (0, 0, 0, 2): 1, (0, 0, 1, 0): 1, (0, 1, 0, 0): 1, (1, 0, 0, 0): 1,
    (0, 0, 0, 0, 0): 2, (0, 0, 0, 1, 0): 1,
}
# How a capped tree is chosen: by the product of these chances that the child of rank r is the target's token.
# Rounded from the acceptance by rank of the mini target; only their order matters, and only under --max-nodes.
RANK_CHANCE = (0.6, 0.15, 0.07, 0.04, 0.03, 0.02, 0.015, 0.01)


@dataclass(frozen=True)
class Config:
    recycling_topk: int = option(8, "successors remembered for a token", "--output-id-topk")


@dataclass(frozen=True)
class Template:
    """The static tree, likeliest nodes first (a parent comes before its children): parent and rank of each node."""

    parents: tuple[int, ...]
    ranks: tuple[int, ...]
    depths: tuple[int, ...]


def template(max_rank: int) -> Template:
    """The tree of `TREE` without ranks from `max_rank` on, root first."""
    paths = [(*path, rank) for path, children in TREE.items() for rank in range(min(children, max_rank))]
    paths = [p for p in paths if all(r < max_rank for r in p)]
    paths.sort(key=lambda p: (-np.prod([RANK_CHANCE[r] for r in p]), len(p), p))
    order = {path: i for i, path in enumerate([(), *paths])}
    return Template((-1, *(order[p[:-1]] for p in paths)), (0, *(p[-1] for p in paths)), (0, *map(len, paths)))


class Recycling(Drafter):
    scope = "question"

    def __init__(self, config: Config, vocab_size: int) -> None:
        self.template = template(config.recycling_topk)
        self.needs = Needs(max_nodes=len(self.template.parents), topk=config.recycling_topk)
        self.matrix = np.full((vocab_size, config.recycling_topk), -1, dtype=np.int32)
        self._parents, self._ranks = np.array(self.template.parents), np.array(self.template.ranks)
        self._levels: dict[int, list[np.ndarray]] = {}

    def forget(self) -> None:
        self.matrix.fill(-1)

    def propose(self, context: Context) -> Draft:
        n = min(context.max_nodes, len(self._parents))
        tokens = np.full(n, -1, dtype=np.int32)
        tokens[0] = context.root
        for nodes in self._by_depth(n):
            above = tokens[self._parents[nodes]]
            tokens[nodes] = np.where(above >= 0, self.matrix[above, self._ranks[nodes]], -1)
        kept = np.flatnonzero(tokens >= 0)
        renumbered = np.full(n + 1, -1, dtype=np.int64)  # the last entry stands for the root's parent, -1
        renumbered[kept] = np.arange(len(kept))
        parents = renumbered[self._parents[kept]]
        return Draft(tokens[kept].tolist(), parents.tolist(), len(kept), "recycling" if len(kept) > 1 else "none")

    def observe(self, out: StepOut) -> None:
        if out.topk is not None:
            # of equal tokens in the tree the last node wins: numpy assigns repeated indices in order
            tokens = np.fromiter(out.draft.tokens[:out.draft.candidates], dtype=np.int64)
            self.matrix[tokens] = out.topk[:, :self.matrix.shape[1]]

    def _by_depth(self, n: int) -> list[np.ndarray]:
        """Node numbers of each depth below the root among the first n nodes."""
        if n not in self._levels:
            depths = np.array(self.template.depths[:n])
            self._levels[n] = [np.flatnonzero(depths == d) for d in range(1, depths.max(initial=0) + 1)]
        return self._levels[n]


def build(config: Config, host: Target) -> Drafter:
    return Recycling(config, host.vocab_size)
