"""The head at work: a KV cache of its own, catching up with target features, and growing the draft tree.

The stable cache holds rows made from true target features; rows made while drafting are discarded after the step.
The tree is grown in tensors without a host round trip between levels; only the finished tree is read.

Shapes: n rows, k frontier (top-k), C stable rows, H hidden, W draft vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model.eagle3.head import Eagle3Head

CHUNK = 512


@dataclass(frozen=True)
class Tree:
    """Drafted tokens and their parents (0 is the root), parents first."""

    tokens: list[int]
    parents: list[int]

    def paths(self) -> list[tuple[int, ...]]:
        """Every node as the tokens from the root to it."""
        found: list[tuple[int, ...]] = [()]
        for token, parent in zip(self.tokens, self.parents):
            found.append((*found[parent], token))
        return found[1:]


Rows = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(level, feature [k, H], tokens [k], which drafted rows each row attends [k, (level+1)*k]) -> the layer's output [k, H]."""


def top(head: Eagle3Head, ids: torch.Tensor, logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [n, k] in fp32 and target ids [n, k] of each row's best."""
    best = logits.float().log_softmax(-1).topk(k, dim=-1)
    return best.values, ids[best.indices]


def expand(head: Eagle3Head, ids: torch.Tensor, last: torch.Tensor, k: int, depth: int, nodes: int, rows: Rows,
           ) -> torch.Tensor:
    """The best `nodes` of a tree of `depth` levels below the first, k expanded a level: [3, nodes] candidate numbers
    from 1, tokens, parents' numbers (0: the root), parents first. Tensors throughout: nothing is read on the host.

    Candidates are numbered as they are made: the first level 0..k-1, child c of frontier row r in iteration i
    k + i*k*k + r*k + c; ties of score go to the smaller number, so the kept set is closed under ancestors.
    """
    scores, tokens = top(head, ids, head.logits(last), k)
    frontier_scores, frontier_tokens = scores[0], tokens[0]
    all_scores, all_tokens, all_parents = [scores[0]], [tokens[0]], [torch.zeros_like(tokens[0])]
    feature = head.next_feature(last).expand(k, -1)
    own = torch.eye(k, dtype=torch.bool, device=last.device)
    seen, frontier = own[:, :0], torch.arange(k, device=last.device)  # the candidate number of each frontier row
    for level in range(depth):
        seen = torch.cat([seen, own], dim=1)
        out = rows(level, feature, frontier_tokens, seen)
        scores, tokens = top(head, ids, head.logits(out), k)
        scores = scores + frontier_scores[:, None]
        all_scores.append(scores.flatten())
        all_tokens.append(tokens.flatten())
        all_parents.append((frontier + 1)[:, None].expand(k, k).flatten())
        best = scores.flatten().sort(descending=True, stable=True).indices[:k]
        frontier_scores, frontier_tokens = scores.flatten()[best], tokens.flatten()[best]
        frontier = k + level * k * k + best
        above = best // k
        feature, seen = head.next_feature(out)[above], seen[above]
    kept = torch.cat(all_scores).sort(descending=True, stable=True).indices[:nodes].sort().values
    return torch.stack([kept + 1, torch.cat(all_tokens)[kept], torch.cat(all_parents)[kept]])


def read(packed: torch.Tensor) -> Tree:
    """The tree on the host: one transfer."""
    numbers, found, above = packed.tolist()
    order = {number: i for i, number in enumerate([0, *numbers])}
    return Tree(found, [order[p] for p in above])


class DraftState:
    """One request's state: cached rows, and the output of the last stable row, from which a tree grows."""

    def __init__(self, head: Eagle3Head, embedding: torch.Tensor, positions: int) -> None:
        c, weight = head.config, head.fc.weight
        self.head, self.embedding, self.positions = head, embedding, positions
        self.cache = torch.zeros(2, positions, c.kv_heads, c.head_dim, dtype=weight.dtype, device=weight.device)
        self.keys, self.values = self.cache[0], self.cache[1]
        self.cos, self.sin = head.rope(torch.arange(positions, device=weight.device))
        self.ids = torch.arange(c.draft_vocab, device=weight.device) + head.d2t
        self.reset()

    def reset(self) -> None:
        """Before another request."""
        self.stable = 0
        self.last: torch.Tensor | None = None

    @torch.inference_mode()
    def catch_up(self, features_nF: torch.Tensor, tokens: list[int]) -> None:
        """Append stable rows: the feature of each token with the *next* token, causally."""
        for begin in range(0, len(tokens), CHUNK):
            piece = torch.tensor(tokens[begin:begin + CHUNK], device=self.keys.device)
            feature = self.head.fuse(features_nF[begin:begin + CHUNK].to(self.keys.dtype))
            positions = slice(self.stable, self.stable + len(piece))
            mask = None
            if len(piece) > 1:
                mask = torch.ones(len(piece), positions.stop, dtype=torch.bool, device=self.keys.device).tril(self.stable)
            out = self._rows(feature, piece, self.cos[positions], self.sin[positions], self.stable, mask)
            self.stable = positions.stop
            self.last = out[-1:]

    @torch.inference_mode()
    def grow(self, k: int, depth: int, nodes: int) -> Tree:
        """The best `nodes` drafted nodes of a tree of `depth` further levels below the first, k expanded a level."""

        def rows(level: int, feature: torch.Tensor, tokens: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            mask = torch.cat([seen.new_ones(k, self.stable), seen], dim=1) if k > 1 else None
            at = slice(self.stable + level, self.stable + level + 1)
            return self._rows(feature, tokens, self.cos[at].expand(k, -1), self.sin[at].expand(k, -1),
                              self.stable + level * k, mask)

        return read(expand(self.head, self.ids, self.last, k, depth, nodes, rows))

    def _rows(self, feature: torch.Tensor, tokens: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, begin: int,
              mask: torch.Tensor | None) -> torch.Tensor:
        """The layer's output [n, H] for n rows, whose keys and values are written from row `begin` on.

        `mask` [n, begin + n] says what each row attends (None: everything).
        """
        end = begin + len(tokens)
        residual, q, k, v = self.head.project(feature, self.embedding[tokens], cos, sin)
        self.keys[begin:end], self.values[begin:end] = k, v
        query, keys, values = (x.transpose(0, 1)[None] for x in (q, self.keys[:end], self.values[:end]))
        _, heads, n, dim = query.shape
        groups = heads // keys.shape[1]  # query heads of a key head become rows: its keys are read once
        folded, mask = query.reshape(1, -1, groups * n, dim), None if mask is None else mask.repeat(groups, 1)
        attended = F.scaled_dot_product_attention(folded, keys, values, mask).reshape(heads, n, dim)
        return self.head.finish(residual, attended.transpose(0, 1))
