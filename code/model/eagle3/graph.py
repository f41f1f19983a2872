"""A whole EAGLE-3 draft as one CUDA graph: catching up with accepted rows, then every level.

Lengths lie on the device, so one graph for each bucket of accepted rows serves every context
length; the host reads only the finished tree. On a CPU the same code runs operation by operation:
so it is tested.

Shapes: n accepted rows of a bucket, k frontier (top-k), F features, H hidden.
"""

from __future__ import annotations

import torch

from model.drafting import DraftForward, alone
from model.eagle3.tree import DraftState, Level, Scored, Tree, TreeShape, expand, read, scored
from model.engine.device.capture import StepBuffer, capture
from model.engine.device.tree_attention import tree_attention

BUCKETS = (1, 2, 4, 8, 16)
MOST_ROWS = BUCKETS[-1]
"""More accepted rows (a prompt, a long copy by another drafter) are caught up with one by one."""


class DraftGraph:
    """Trees of one shape from one state; made anew when the state is."""

    def __init__(self, state: DraftState, shape: TreeShape) -> None:
        config, cache = state.head.config, state.cache
        self._state, self._shape = state, shape
        self._inputs = StepBuffer({"stable": 1, "rows": 1, "tokens": MOST_ROWS}, cache.device)
        self._features = cache.new_zeros(MOST_ROWS, 3 * config.target_hidden)
        drafted_rows = max(1, shape.depth) * shape.k
        self._drafted = cache.new_zeros(2, drafted_rows, config.kv_heads, config.head_dim)
        self._scaling = config.head_dim**-0.5
        self._order = torch.arange(MOST_ROWS, device=cache.device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool: object = None

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
            made = capture(lambda: self.body(rows), self._features.device, self._pool)
            self._graphs[rows] = made
            self._pool = self._pool or made[0].pool()
        graph, packed = self._graphs[rows]
        graph.replay()
        return packed

    def body(self, rows: int) -> torch.Tensor:
        """What a graph holds: the packed tree. Reads the device buffer alone."""
        state, shape, given = self._state, self._shape, self._inputs.device
        order = self._order[:rows]
        feature = state.head.fuse(self._features[:rows])
        causal = torch.ones(rows, rows, dtype=torch.bool, device=order.device).tril()
        positions, stable = given["stable"] + order, given["stable"]
        out = self._forward(feature, given["tokens"][:rows], positions, stable, causal)
        last = out.index_select(0, given["rows"] - 1)
        scored_last = scored(state.head, state.ids, last, shape.k)
        growing = expand(
            state.head, scored_last, shape, lambda level: DraftForward(level, self._levels)
        )
        return alone(growing)

    def _levels(self, levels: list[Level]) -> list[Scored]:
        """One level: nobody shares a recorded draft."""
        (level,) = levels
        state, shape, given = self._state, self._shape, self._inputs.device
        caught_up = given["stable"] + given["rows"]
        positions = (caught_up + level.number).expand(shape.k)
        out = self._forward(
            level.feature, level.tokens, positions, caught_up, level.attends, level.number
        )
        return [scored(state.head, state.ids, out, shape.k)]

    def _forward(
        self,
        feature: torch.Tensor,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        start: torch.Tensor,
        mask: torch.Tensor,
        level: int | None = None,
    ) -> torch.Tensor:
        """The layer's output [n, H].

        Rows of a level join the drafted ones; others (no level) are stored behind the stable ones.
        """
        state, k = self._state, self._shape.k
        cos, sin = state.cos.index_select(0, positions), state.sin.index_select(0, positions)
        residual, query, key, value = state.head.project(feature, state.embedding[tokens], cos, sin)
        if level is not None:
            begin, end = level * k, (level + 1) * k
            self._drafted[0, begin:end], self._drafted[1, begin:end] = key, value
            key, value = self._drafted[0, :end], self._drafted[1, :end]
        attended = tree_attention(
            query,
            key,
            value,
            state.cache,
            start,
            mask.contiguous(),
            self._scaling,
            store=level is None,
        )
        return state.head.finish(residual, attended)
