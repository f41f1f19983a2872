"""The head at work: a KV cache of its own, catching up with target features, growing the tree.

The stable cache holds rows made from true target features; rows made while drafting are discarded
after the step. The tree is grown in tensors without a host round trip between levels; only the
finished tree is read.

Shapes: n rows, k frontier (top-k), C stable rows, F features, H hidden, W draft vocabulary,
D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from model.eagle3.head import Eagle3Head

CHUNK = 512
"""Rows caught up with in one forward."""


@dataclass(frozen=True)
class TreeShape:
    """How a tree is grown: k rows expanded a level, levels below the first, nodes kept."""

    k: int
    depth: int
    nodes: int


@dataclass(frozen=True)
class Tree:
    """Drafted tokens and their parents (0 is the root), parents first."""

    tokens: list[int]
    parents: list[int]
    chances: list[float] = field(compare=False)
    """The head's own probability of each node's path; rounding differs from way to way."""

    def paths(self) -> list[tuple[int, ...]]:
        """Every node as the tokens from the root to it."""
        paths: list[tuple[int, ...]] = [()]
        for token, parent in zip(self.tokens, self.parents, strict=True):
            paths.append((*paths[parent], token))
        return paths[1:]


LevelForward = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(level, feature [k, H], tokens [k], which drafted rows each attends [k, (level+1)*k]) -> the
layer's output [k, H]."""


def likeliest(
    head: Eagle3Head, ids: torch.Tensor, out: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [n, k] in fp32 and target ids [n, k] of each row's best."""
    best = head.logits(out).float().log_softmax(-1).topk(k, dim=-1)
    return best.values, ids[best.indices]


@dataclass
class Candidates:
    """All nodes made while growing: scores, tokens and parents' numbers, one tensor a level.

    Candidates are numbered as they are made: the first level 1..k, child c of frontier row r in
    iteration i 1 + k + i*k*k + r*k + c; 0 is the root.
    """

    scores: list[torch.Tensor]
    tokens: list[torch.Tensor]
    parents: list[torch.Tensor]

    def best(self, nodes: int) -> torch.Tensor:
        """[4, nodes]: numbers, tokens, parents' numbers, scores of the best scored, parents first.

        Scores are float32 by their bits. Ties of score go to the smaller number, so the kept set is
        closed under ancestors.
        """
        scores = torch.cat(self.scores)
        order = scores.sort(descending=True, stable=True).indices
        kept = order[:nodes].sort().values
        tokens, parents = torch.cat(self.tokens), torch.cat(self.parents)
        bits = scores[kept].float().view(torch.int32).long()
        return torch.stack([kept + 1, tokens[kept], parents[kept], bits])


def expand(
    head: Eagle3Head,
    ids: torch.Tensor,
    last: torch.Tensor,
    shape: TreeShape,
    forward: LevelForward,
) -> torch.Tensor:
    """The best nodes of a tree of `depth` levels below the first (Li et al. 2024, EAGLE-2, sec. 4).

    [4, nodes]: candidate numbers from 1, tokens, parents' numbers, scores by their bits, parents
    first. Tensors throughout: nothing is read on the host.
    """
    k = shape.k
    scores, tokens = likeliest(head, ids, last, k)
    made = Candidates([scores[0]], [tokens[0]], [torch.zeros_like(tokens[0])])
    frontier_scores, frontier_tokens = scores[0], tokens[0]
    frontier_numbers = torch.arange(1, k + 1, device=last.device)
    feature = head.next_feature(last).expand(k, -1)
    itself = torch.eye(k, dtype=torch.bool, device=last.device)
    attends = itself[:, :0]
    for level in range(shape.depth):
        attends = torch.cat([attends, itself], dim=1)
        out = forward(level, feature, frontier_tokens, attends)
        scores, tokens = likeliest(head, ids, out, k)
        child_scores = (scores + frontier_scores[:, None]).flatten()
        child_tokens = tokens.flatten()
        made.scores.append(child_scores)
        made.tokens.append(child_tokens)
        made.parents.append(frontier_numbers[:, None].expand(k, k).flatten())
        # the k best children are the next frontier
        best = child_scores.sort(descending=True, stable=True).indices[:k]
        parent_row = best // k
        frontier_scores, frontier_tokens = child_scores[best], child_tokens[best]
        frontier_numbers = 1 + k + level * k * k + best
        feature = head.next_feature(out)[parent_row]
        attends = attends[parent_row]
    return made.best(shape.nodes)


def read(packed: torch.Tensor) -> Tree:
    """The tree of `expand` on the host: one transfer."""
    host = packed.cpu().numpy()
    numbers, tokens, parent_numbers = host[:3].tolist()
    scores = host[3].astype(np.int32).view(np.float32)
    node_of = {number: node for node, number in enumerate([0, *numbers])}
    parents = [node_of[number] for number in parent_numbers]
    return Tree(tokens, parents, np.exp(scores).tolist())


class DraftState:
    """One request's state: cached rows, and the output of the last stable row.

    The cache holds up to `positions` rows, drafted ones included.
    """

    def __init__(self, head: Eagle3Head, embedding: torch.Tensor, positions: int) -> None:
        c, weight = head.config, head.fc.weight
        size = (2, positions, c.kv_heads, c.head_dim)
        self.head, self.embedding, self.positions = head, embedding, positions
        self.cache = torch.zeros(size, dtype=weight.dtype, device=weight.device)
        self.keys, self.values = self.cache[0], self.cache[1]
        self.cos, self.sin = head.rope(torch.arange(positions, device=weight.device))
        self.ids = torch.arange(c.draft_vocab, device=weight.device) + head.d2t
        self.stable = 0
        """Rows made from true features."""
        self.last: torch.Tensor | None = None
        """The layer's output [1, H] of the last stable row, from which a tree grows."""

    def reset(self) -> None:
        """Before another request."""
        self.stable = 0
        self.last = None

    @torch.inference_mode()
    def catch_up(self, features_nF: torch.Tensor, tokens: list[int]) -> None:
        """Append stable rows: the feature of each token with the *next* token, causally."""
        device = self.keys.device
        for begin in range(0, len(tokens), CHUNK):
            chunk = torch.tensor(tokens[begin : begin + CHUNK], device=device)
            feature = self.head.fuse(features_nF[begin : begin + CHUNK].to(self.keys.dtype))
            rows = slice(self.stable, self.stable + len(chunk))
            mask = None
            if len(chunk) > 1:
                everything = torch.ones(len(chunk), rows.stop, dtype=torch.bool, device=device)
                mask = everything.tril(self.stable)
            cos, sin = self.cos[rows], self.sin[rows]
            out = self.forward(feature, chunk, cos, sin, self.stable, mask)
            self.stable = rows.stop
            self.last = out[-1:]

    @torch.inference_mode()
    def grow(self, shape: TreeShape) -> Tree:
        """The best drafted nodes below the last stable row."""
        k = shape.k

        def forward(
            level: int, feature: torch.Tensor, tokens: torch.Tensor, attends: torch.Tensor
        ) -> torch.Tensor:
            mask = None
            if k > 1:
                mask = torch.cat([attends.new_ones(k, self.stable), attends], dim=1)
            at = slice(self.stable + level, self.stable + level + 1)
            cos, sin = self.cos[at].expand(k, -1), self.sin[at].expand(k, -1)
            return self.forward(feature, tokens, cos, sin, self.stable + level * k, mask)

        assert self.last is not None, "catch up first"
        return read(expand(self.head, self.ids, self.last, shape, forward))

    def forward(
        self,
        feature: torch.Tensor,
        tokens: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        begin: int,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The layer's output [n, H] for n rows, whose keys and values are written from row `begin`.

        feature [n, H], tokens [n], cos and sin [n, D]; `mask` [n, begin + n] says what each row
        attends (None: everything).
        """
        end = begin + len(tokens)
        residual, q, k, v = self.head.project(feature, self.embedding[tokens], cos, sin)
        self.keys[begin:end], self.values[begin:end] = k, v
        query = q.transpose(0, 1)[None]
        keys = self.keys[:end].transpose(0, 1)[None]
        values = self.values[:end].transpose(0, 1)[None]
        _, heads, rows, dim = query.shape
        groups = heads // keys.shape[1]  # query heads of a key head become rows: keys are read once
        folded = query.reshape(1, -1, groups * rows, dim)
        folded_mask = None if mask is None else mask.repeat(groups, 1)
        attended = F.scaled_dot_product_attention(folded, keys, values, folded_mask)
        by_row = attended.reshape(heads, rows, dim).transpose(0, 1)
        return self.head.finish(residual, by_row)
