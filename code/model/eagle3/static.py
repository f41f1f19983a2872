"""A whole EAGLE-3 draft as one CUDA graph: catching up with the accepted rows, then every level of the tree.

Lengths lie on the device, so one graph for each bucket of accepted rows serves every context length; the host reads
only the finished tree. On a CPU the same code runs operation by operation: so it is tested.

Shapes: n accepted rows of a bucket B, k frontier (top-k), F features, H hidden, K key/value heads, D head dimension.
"""

import torch

from model.eagle3.tree import DraftState, Tree, expand, read
from model.engine.static import Inputs, capture
from model.engine.tree_attention import tree_attention

BUCKETS = (1, 2, 4, 8, 16)
MOST_ROWS = BUCKETS[-1]  # more rows (a prompt, a long copy by another drafter) are caught up with operation by operation


class StaticDraft:
    """Trees of one shape from one state; made anew when the state is."""

    def __init__(self, state: DraftState, k: int, depth: int, nodes: int) -> None:
        head, cache = state.head, state.cache
        self._state, self._k, self._depth, self._nodes = state, k, depth, nodes
        self._inputs = Inputs({"stable": 1, "rows": 1, "tokens": MOST_ROWS}, cache.device)
        self._features = torch.zeros(MOST_ROWS, 3 * head.config.target_hidden, dtype=cache.dtype, device=cache.device)
        self._drafted = cache.new_zeros(2, max(1, depth) * k, *cache.shape[2:])
        self._scaling = head.config.head_dim ** -0.5
        self._order = torch.arange(MOST_ROWS, device=cache.device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool: object = None

    @torch.inference_mode()
    def prepare(self) -> bool:
        """Record every bucket over noise; False where one does not draft what the levels one by one do.

        In half precision scores that nearly tie may change places, so half of the tree must agree, not all of it.
        """
        state = self._state
        for rows in reversed(BUCKETS):
            state.reset()
            features = torch.randn_like(self._features[:rows])
            mine = self.step(features, [0] * rows)
            state.reset()
            state.catch_up(features, [0] * rows)
            theirs = state.grow(self._k, self._depth, self._nodes)
            if 2 * len(set(mine.paths()) & set(theirs.paths())) < self._nodes:
                return False
        state.reset()
        return True

    def takes(self, rows: int) -> bool:
        """So many accepted rows, whose bucket fits the cache."""
        return 1 <= rows <= MOST_ROWS and self._state.stable + MOST_ROWS + self._depth <= self._state.positions

    @torch.inference_mode()
    def step(self, features_nF: torch.Tensor, tokens: list[int]) -> Tree:
        """Catch up with n accepted rows and grow the tree."""
        n = len(tokens)
        rows = next(b for b in BUCKETS if b >= n)
        self._inputs.wait()
        host = self._inputs.host
        host["stable"][0], host["rows"][0] = self._state.stable, n
        host["tokens"][:n], host["tokens"][n:] = tokens, 0
        self._inputs.send()
        self._features[:n].copy_(features_nF)
        packed = self._replay(rows) if self._features.is_cuda else self._body(rows)
        self._state.stable += n
        return read(packed)

    def _replay(self, rows: int) -> torch.Tensor:
        if rows not in self._graphs:
            self._graphs[rows] = capture(lambda: self._body(rows), self._features.device, self._pool)
            self._pool = self._pool or self._graphs[rows][0].pool()
        graph, packed = self._graphs[rows]
        graph.replay()
        return packed

    def _body(self, rows: int) -> torch.Tensor:
        state, head, given = self._state, self._state.head, self._inputs.device
        order = self._order[:rows]
        feature = head.fuse(self._features[:rows])
        causal = torch.ones(rows, rows, dtype=torch.bool, device=order.device).tril()
        out = self._rows(feature, given["tokens"][:rows], given["stable"] + order, given["stable"], causal, None)
        last = out.index_select(0, given["rows"] - 1)
        grown = given["stable"] + given["rows"]

        def level_rows(level: int, feature: torch.Tensor, tokens: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            return self._rows(feature, tokens, (grown + level).expand(self._k), grown, seen, level)

        return expand(head, state.ids, last, self._k, self._depth, self._nodes, level_rows)

    def _rows(self, feature: torch.Tensor, tokens: torch.Tensor, positions: torch.Tensor, start: torch.Tensor,
              mask: torch.Tensor, level: int | None) -> torch.Tensor:
        """The layer's output [n, H]; rows of a level join the drafted ones, others (None) are stored behind the stable."""
        state = self._state
        cos, sin = state.cos.index_select(0, positions), state.sin.index_select(0, positions)
        residual, q, k, v = state.head.project(feature, state.embedding[tokens], cos, sin)
        if level is not None:
            begin, end = level * self._k, (level + 1) * self._k
            self._drafted[0, begin:end], self._drafted[1, begin:end] = k, v
            k, v = self._drafted[0, :end], self._drafted[1, :end]
        attended = tree_attention(q, k, v, state.cache, start, mask.contiguous(), self._scaling, level is None)
        return state.head.finish(residual, attended)
