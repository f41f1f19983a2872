"""The head at work: a KV cache of its own, catching up with target features, growing the tree.

The stable cache holds rows made from true target features; rows made while drafting are discarded
after the step. The tree is grown in tensors without a host round trip between levels; only the
finished tree is read.

Shapes: n rows, k frontier (top-k), C stable rows, F features, H hidden, W draft vocabulary,
D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from model.drafting import DraftForward, Drafting, alone
from model.eagle3.head import Eagle3Head
from model.engine.device.reading import to_host

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


@dataclass(frozen=True)
class Level:
    """The k nodes that a level expands."""

    number: int
    feature: torch.Tensor
    """[k, H]."""
    tokens: torch.Tensor
    """[k]."""
    attends: torch.Tensor
    """Which drafted rows each attends, bool [k, (number + 1) * k]."""


@dataclass(frozen=True)
class Scored:
    """What the layer makes of n rows."""

    out: torch.Tensor
    """[n, H]."""
    scores: torch.Tensor
    """Log-probabilities of each row's k likeliest tokens, fp32 [n, k]."""
    tokens: torch.Tensor
    """These tokens, as ids of the target [n, k]."""

    def rows(self, begin: int, end: int) -> Scored:
        return Scored(self.out[begin:end], self.scores[begin:end], self.tokens[begin:end])


def scored(head: Eagle3Head, ids: torch.Tensor, out: torch.Tensor, k: int) -> Scored:
    """The layer's output [n, H] with each row's k best; `ids` [W] are the target's."""
    best = head.logits(out).float().log_softmax(-1).topk(k, dim=-1)
    return Scored(out, best.values, ids[best.indices])


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


class Frontier(NamedTuple):
    """The k nodes that a level expands."""

    scores: torch.Tensor
    """Log-probabilities of their paths [k]."""
    tokens: torch.Tensor
    numbers: torch.Tensor
    """As candidates."""
    feature: torch.Tensor
    """[k, H]."""
    attends: torch.Tensor
    """Which drafted rows each attends, itself last: bool [k, (level + 1) * k]."""


def select(
    scores: torch.Tensor,
    tokens: torch.Tensor,
    feature: torch.Tensor,
    frontier: Frontier,
    first_number: int,
) -> tuple[torch.Tensor, torch.Tensor, Frontier]:
    """The k best of a frontier's children are the next one.

    Given the children's log-probabilities and tokens [k, k], their parents' features [k, H], and
    the first child's number as a candidate. Returns of all children the paths' scores and the
    parents' numbers [k * k], and the next frontier.
    """
    k = len(frontier.scores)
    child_scores = (scores + frontier.scores[:, None]).flatten()
    parents = frontier.numbers[:, None].expand(k, k).flatten()
    best = child_scores.sort(descending=True, stable=True).indices[:k]
    parent_row = best // k
    itself = torch.eye(k, dtype=torch.bool, device=best.device)
    following = Frontier(
        scores=child_scores[best],
        tokens=tokens.flatten()[best],
        numbers=first_number + best,
        feature=feature[parent_row],
        attends=torch.cat([frontier.attends[parent_row], itself], dim=1),
    )
    return child_scores, parents, following


Select = Callable[..., tuple[torch.Tensor, torch.Tensor, Frontier]]


def expand(
    head: Eagle3Head,
    last: Scored,
    shape: TreeShape,
    forward: Callable[[Level], DraftForward],
    choose: Select = select,
) -> Drafting[torch.Tensor]:
    """The best nodes of a tree of `depth` levels below the first (Li et al. 2024, EAGLE-2, sec. 4).

    `last` is of the last stable row; `forward` yields the `Scored` of a level; `choose` is
    `select`, compiled perhaps. [4, nodes]: candidate numbers from 1, tokens, parents' numbers,
    scores by their bits, parents first. Tensors throughout: nothing is read on the host.
    """
    k, device = shape.k, last.out.device
    frontier = Frontier(
        scores=last.scores[0],
        tokens=last.tokens[0],
        numbers=torch.arange(1, k + 1, device=device),
        feature=head.next_feature(last.out).expand(k, -1),
        attends=torch.eye(k, dtype=torch.bool, device=device),
    )
    parents = torch.zeros_like(frontier.tokens)
    made = Candidates([frontier.scores], [frontier.tokens], [parents])
    for level in range(shape.depth):
        children = yield forward(Level(level, frontier.feature, frontier.tokens, frontier.attends))
        scores, parents, frontier = choose(
            children.scores,
            children.tokens,
            head.next_feature(children.out),
            frontier,
            1 + k + level * k * k,
        )
        made.scores.append(scores)
        made.tokens.append(children.tokens.flatten())
        made.parents.append(parents)
    return made.best(shape.nodes)


def read(packed: torch.Tensor) -> Tree:
    """The tree of `expand` on the host: one transfer."""
    host = to_host(packed)
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
        for rows in self._stable_rows(features_nF, tokens):
            self.last = layer([rows], is_from_target=True)[-1:]

    def grow(self, shape: TreeShape) -> Tree:
        """The best drafted nodes below the last stable row."""
        return alone(self.drafting(shape))

    @torch.inference_mode()
    def drafting(
        self,
        shape: TreeShape,
        features_nF: torch.Tensor | None = None,
        tokens: Sequence[int] = (),
    ) -> Drafting[Tree]:
        """`catch_up` and `grow`, in forwards that other states may share."""
        k, last = shape.k, None
        if features_nF is not None:
            for rows in self._stable_rows(features_nF, tokens, k):
                last = yield DraftForward(rows, score_last_rows, k)
                self.last = last.out
        if last is None:
            assert self.last is not None, "catch up first"
            last = scored(self.head, self.ids, self.last, k)
        packed = yield from expand(self.head, last, shape, self._level)
        return read(packed)

    def _stable_rows(
        self, features_nF: torch.Tensor, tokens: Sequence[int], k: int = 1
    ) -> Iterator[HeadRows]:
        """Rows to be appended, in chunks; their features are the target's."""
        device = self.keys.device
        for begin in range(0, len(tokens), CHUNK):
            chunk = torch.tensor(tokens[begin : begin + CHUNK], device=device)
            feature = features_nF[begin : begin + CHUNK].to(self.keys.dtype)
            start, end = self.stable, self.stable + len(chunk)
            mask = None
            if len(chunk) > 1:
                everything = torch.ones(len(chunk), end, dtype=torch.bool, device=device)
                mask = everything.tril(start)
            self.stable = end
            cos, sin = self.cos[start:end], self.sin[start:end]
            yield HeadRows(self, feature, chunk, cos, sin, start, mask, k)

    def _level(self, level: Level) -> DraftForward:
        """A level's rows stand behind the stable ones and the levels above."""
        k, number = len(level.tokens), level.number
        mask = None
        if k > 1:
            mask = torch.cat([level.attends.new_ones(k, self.stable), level.attends], dim=1)
        at = slice(self.stable + number, self.stable + number + 1)
        cos, sin = self.cos[at].expand(k, -1), self.sin[at].expand(k, -1)
        begin = self.stable + number * k
        rows = HeadRows(self, level.feature, level.tokens, cos, sin, begin, mask, k)
        return DraftForward(rows, score_rows, k)

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        begin: int,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """What n rows attend, [n, N, D]; their keys and values are written from row `begin`.

        `mask` [n, begin + n] says what each row attends (None: everything).
        """
        end = begin + len(q)
        self.keys[begin:end], self.values[begin:end] = k, v
        query = q.transpose(0, 1)[None]
        keys = self.keys[:end].transpose(0, 1)[None]
        values = self.values[:end].transpose(0, 1)[None]
        _, heads, rows, dim = query.shape
        groups = heads // keys.shape[1]  # query heads of a key head become rows: keys are read once
        folded = query.reshape(1, -1, groups * rows, dim)
        folded_mask = None if mask is None else mask.repeat(groups, 1)
        attended = F.scaled_dot_product_attention(folded, keys, values, folded_mask)
        return attended.reshape(heads, rows, dim).transpose(0, 1)


@dataclass(frozen=True)
class HeadRows:
    """n new rows of one state, written from its row `begin`."""

    state: DraftState
    feature: torch.Tensor
    """[n, H], or the target's [n, F], which is fused first."""
    tokens: torch.Tensor
    """[n]."""
    cos: torch.Tensor
    """[n, D], as `sin`."""
    sin: torch.Tensor
    begin: int
    mask: torch.Tensor | None
    """[n, begin + n]: what each row attends; None: everything."""
    k: int
    """How many likeliest tokens are wanted of a row."""

    def __len__(self) -> int:
        return len(self.tokens)


def layer(batch: list[HeadRows], is_from_target: bool = False) -> torch.Tensor:
    """The layer's output [all rows, H], in one forward; every state's rows attend their own.

    `is_from_target`: the features are the target's.
    """
    state = batch[0].state
    tokens = _joined([rows.tokens for rows in batch])
    feature = _joined([rows.feature for rows in batch])
    residual, q, k, v = state.head.project(
        state.head.fuse(feature) if is_from_target else feature,
        state.embedding[tokens],
        _joined([rows.cos for rows in batch]),
        _joined([rows.sin for rows in batch]),
    )
    attended, end = [], 0
    for rows in batch:
        at = slice(end, end + len(rows))
        end = at.stop
        attended.append(rows.state.attend(q[at], k[at], v[at], rows.begin, rows.mask))
    return state.head.finish(residual, _joined(attended))


@torch.inference_mode()
def score_rows(batch: list[HeadRows]) -> list[Scored]:
    """Every row with its likeliest tokens; all states have as many rows."""
    return _scored(batch, layer(batch), len(batch[0]))


@torch.inference_mode()
def score_last_rows(batch: list[HeadRows]) -> list[Scored]:
    """The last row of each state with its likeliest tokens."""
    last = [end - 1 for end in accumulate(len(rows) for rows in batch)]
    return _scored(batch, layer(batch, is_from_target=True)[last], 1)


def _scored(batch: list[HeadRows], out: torch.Tensor, each: int) -> list[Scored]:
    """Of the layer's output [states * each, H], every state's part."""
    state = batch[0].state
    together = scored(state.head, state.ids, out, batch[0].k)
    return [together.rows(begin, begin + each) for begin in range(0, len(out), each)]


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
