"""A whole EAGLE-3 draft as one CUDA graph: catching up with accepted rows, then every level.

Lengths lie on the device, so one graph for each bucket of accepted rows serves every context
length; the host reads only the finished tree. `fused`: each part is compiled first, its linears
merged, as the target's layers are (`cuda_graph_fused.py`): 21 launches a level with its top-k. On
a CPU the same code runs operation by operation: so it is tested.

Shapes: n accepted rows of a bucket, k frontier (top-k), F features, H hidden, K key/value heads,
D head dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from model.drafting import DraftForward, alone
from model.eagle3.head import Eagle3Head
from model.eagle3.tree import (
    DraftState,
    Level,
    Scored,
    Tree,
    TreeShape,
    expand,
    read,
    scored,
    select,
)
from model.engine.device.capture import Captures, StepBuffer
from model.engine.device.merged_linears import compiled, move_together
from model.engine.device.tree_attention import tree_attention

BUCKETS = (1, 2, 4, 8, 16)
MOST_ROWS = BUCKETS[-1]
"""More accepted rows (a prompt, a long copy by another drafter) are caught up with one by one."""


class DraftGraph:
    """Trees of one shape from one state; made anew when the state is."""

    def __init__(self, state: DraftState, shape: TreeShape, fused: bool = False) -> None:
        config, cache = state.head.config, state.cache
        self._state, self._shape = state, shape
        self._inputs = StepBuffer({"stable": 1, "rows": 1, "tokens": MOST_ROWS}, cache.device)
        self._features = cache.new_zeros(MOST_ROWS, 3 * config.target_hidden)
        self._drafted = cache.new_zeros(2, 0, config.kv_heads, config.head_dim)
        self._nothing = self._drafted
        if fused:
            move_together(state.head)
        self._caught_up = compiled(caught_up) if fused else caught_up
        self._level = compiled(next_level) if fused else next_level
        self._select = compiled(select) if fused else select
        self._order = torch.arange(MOST_ROWS, device=cache.device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._captures = Captures(cache.device)

    @torch.inference_mode()
    def prepare(self) -> bool:
        """Record every bucket over noise; False where one drafts other than level by level.

        In half precision scores that nearly tie may change places, so half of the tree must agree,
        not all of it.
        """
        state = self._state
        for rows in reversed(BUCKETS):
            features, tokens = torch.randn_like(self._features[:rows]), [0] * rows
            state.reset()
            recorded = self.step(features, tokens)
            state.reset()
            state.catch_up(features, tokens)
            by_level = state.grow(self._shape)
            agreeing = set(recorded.paths()) & set(by_level.paths())
            if 2 * len(agreeing) < self._shape.nodes:
                return False
        state.reset()
        return True

    def takes(self, rows: int) -> bool:
        """Can it catch up with so many accepted rows: does their bucket fit the cache?"""
        end = self._state.stable + MOST_ROWS + self._shape.depth
        return 1 <= rows <= MOST_ROWS and end <= self._state.positions

    @torch.inference_mode()
    def step(self, features_nF: torch.Tensor, tokens: list[int]) -> Tree:
        """Catch up with n accepted rows and grow the tree."""
        used = len(tokens)
        rows = next(size for size in BUCKETS if size >= used)
        self._inputs.wait()
        host = self._inputs.host
        host["stable"][0], host["rows"][0] = self._state.stable, used
        host["tokens"][:used], host["tokens"][used:] = tokens, 0
        self._inputs.send()
        self._features[:used].copy_(features_nF)
        packed = self._replay(rows) if self._features.is_cuda else self.body(rows)
        self._state.stable += used
        return read(packed)

    def _replay(self, rows: int) -> torch.Tensor:
        if rows not in self._graphs:
            self._graphs[rows] = self._captures.capture(lambda: self.body(rows))
        graph, packed = self._graphs[rows]
        graph.replay()
        return packed

    def body(self, rows: int) -> torch.Tensor:
        """What a graph holds: the packed tree. Reads the device buffer alone."""
        state, shape, given = self._state, self._shape, self._inputs.device
        self._drafted = self._nothing
        last = self._caught_up(
            state.head,
            self._tables(),
            self._features[:rows],
            given["tokens"][:rows],
            self._order[:rows],
            given["stable"],
            given["rows"],
            shape.k,
        )
        growing = expand(
            state.head,
            Scored(*last),
            shape,
            lambda level: DraftForward(level, self._levels),
            self._select,
        )
        return alone(growing)

    def _levels(self, levels: list[Level]) -> list[Scored]:
        """One level: nobody shares a recorded draft."""
        (level,) = levels
        state, given = self._state, self._inputs.device
        out, scores, tokens, self._drafted = self._level(
            state.head,
            self._tables(),
            level.feature,
            level.tokens,
            given["stable"] + given["rows"],
            level.number,
            level.attends,
            self._drafted,
        )
        return [Scored(out, scores, tokens)]

    def _tables(self) -> Tables:
        state = self._state
        return Tables(state.embedding, state.cos, state.sin, state.ids, state.cache)


class Tables(NamedTuple):
    """What a head looks up, and its cache of stable rows."""

    embedding: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    ids: torch.Tensor
    """Of the target, by draft id."""
    cache: torch.Tensor


def caught_up(
    head: Eagle3Head,
    tables: Tables,
    features_nF: torch.Tensor,
    tokens: torch.Tensor,
    order: torch.Tensor,
    stable: torch.Tensor,
    rows: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Store n rows behind the `stable` ones, of which `rows` count: the last one's `Scored`."""
    count = features_nF.shape[0]
    causal = torch.ones(count, count, dtype=torch.bool, device=order.device).tril()
    residual, query, key, value = _projected(
        head, tables, head.fuse(features_nF), tokens, stable + order
    )
    scaling = head.config.head_dim**-0.5
    attended = tree_attention(query, key, value, tables.cache, stable, causal, scaling, store=True)
    last = head.finish(residual, attended).index_select(0, rows - 1)
    best = scored(head, tables.ids, last, k)
    return best.out, best.scores, best.tokens


def next_level(
    head: Eagle3Head,
    tables: Tables,
    feature: torch.Tensor,
    tokens: torch.Tensor,
    stable: torch.Tensor,
    number: int,
    attends: torch.Tensor,
    drafted: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A level's `Scored`, and `drafted` [2, rows, K, D] with its keys and values behind."""
    k = tokens.shape[0]
    positions = (stable + number).expand(k)
    residual, query, key, value = _projected(head, tables, feature, tokens, positions)
    drafted = torch.cat([drafted, torch.stack([key, value])], dim=1)
    scaling = head.config.head_dim**-0.5
    attended = tree_attention(
        query, drafted[0], drafted[1], tables.cache, stable, attends, scaling, store=False
    )
    best = scored(head, tables.ids, head.finish(residual, attended), k)
    return best.out, best.scores, best.tokens, drafted


def _projected(
    head: Eagle3Head,
    tables: Tables,
    feature: torch.Tensor,
    tokens: torch.Tensor,
    positions: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    cos, sin = tables.cos.index_select(0, positions), tables.sin.index_select(0, positions)
    return head.project(feature, tables.embedding[tokens], cos, sin)
