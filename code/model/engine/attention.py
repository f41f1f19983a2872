"""Attention of packed rows: several sequences side by side in one [1, R] input, each over its own cached rows.

Registered with transformers under a name that has no mask function, so transformers builds no mask and hands every
keyword argument of `model(...)` through to us: the `step` carries cache, segments and masks. The models stay as
they are.

Shapes: H query heads, K key/value heads, G = H/K, T rows of a segment, R rows of all, L cached + T, D head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from model.engine.cache import KVCache
from model.errors import UserError

NAME = "packed_rows"
# Up to here queries of a group are folded into rows (no copy of keys); above, the mask would be large. On a GPU always:
# a masked enable_gqa has only the kernel there that writes all scores out, 1 GB for 512 rows at 15,000 positions.
GROUPED_ROWS = 64


@dataclass(frozen=True)
class Segment:
    """T new rows of one sequence: its slot, how many rows are cached, and which new rows each new row attends.

    `mask` is bool [T, T] over the new rows, on the host (None: causal); all cached rows are attended.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    positions: Sequence[int]
    mask: torch.Tensor | None = None


@dataclass
class Step:
    """One forward's worth of segments; masks are made once and shared by all layers."""

    cache: KVCache
    segments: list[Segment]
    dtype: torch.dtype
    device: torch.device
    features: dict[int, torch.Tensor] = field(default_factory=dict)
    _masks: dict[tuple, torch.Tensor | None] = field(default_factory=dict)

    def mask(self, index: int, groups: int, window: int | None) -> torch.Tensor | None:
        """Additive mask [groups*T, L] of a segment, or None where every row attends everything."""
        key = (index, groups, window)
        if key not in self._masks:
            self._masks[key] = self._build(self.segments[index], groups, window)
        return self._masks[key]

    def _build(self, segment: Segment, groups: int, window: int | None) -> torch.Tensor | None:
        rows, start = len(segment.tokens), segment.start
        windowed = window is not None and start + rows > window
        if rows == 1 and not windowed:
            return None
        new = segment.mask
        if new is None:
            new = torch.ones(rows, rows, dtype=torch.bool, device=self.device).tril()
        new = new.to(self.device)
        allowed = torch.cat([new.new_ones(rows, start), new], dim=1)
        if windowed:
            at = torch.as_tensor(list(segment.positions), device=self.device)
            cached = torch.cat([torch.arange(start, device=self.device), at])
            allowed = allowed & (at[:, None] - cached[None, :] < window)
        additive = torch.zeros(allowed.shape, dtype=self.dtype, device=self.device)
        return additive.masked_fill_(~allowed, float("-inf")).repeat(groups, 1)


def attend(query_HTD: torch.Tensor, key_KLD: torch.Tensor, value_KLD: torch.Tensor,
           mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """Softmax attention [T, H, D]; with a mask of G*T rows the queries of a group are folded into rows."""
    heads, rows, dim = query_HTD.shape
    kv_heads = key_KLD.shape[0]
    folded = mask is None or mask.shape[0] != rows or heads == kv_heads
    if folded:
        query = query_HTD.reshape(1, kv_heads, heads // kv_heads * rows, dim)
        out = F.scaled_dot_product_attention(query, key_KLD[None], value_KLD[None], mask, scale=scaling)
        return out.reshape(heads, rows, dim).transpose(0, 1)  # some CUDA kernels return another layout
    out = F.scaled_dot_product_attention(query_HTD[None], key_KLD[None], value_KLD[None], mask, scale=scaling,
                                         enable_gqa=True)
    return out[0].transpose(0, 1)


def packed_rows(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                attention_mask: torch.Tensor | None, scaling: float | None = None, step: Any = None,
                sliding_window: int | None = None, softcap: float | None = None, **other: object,
                ) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer: query [1, H, R, D], key and value [1, K, R, D] -> [1, R, H, D]."""
    _refuse(module, step, softcap, other)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not isinstance(step, Step):  # being recorded as a graph (graphs.py)
        return step.attend(module, query, key, value, scaling), None
    groups = query.shape[1] // key.shape[1]
    outs, row = [], 0
    for index, segment in enumerate(step.segments):
        rows = slice(row, row + len(segment.tokens))
        row = rows.stop
        keys, values = step.cache.write(module.layer_idx, segment.slot, segment.start, key[0, :, rows], value[0, :, rows])
        folded = len(segment.tokens) <= GROUPED_ROWS or query.is_cuda
        mask = step.mask(index, groups if folded else 1, sliding_window)
        if mask is not None and mask.device != keys.device:
            mask = mask.to(keys.device)  # layers on another GPU than the first
        outs.append(attend(query[0, :, rows], keys, values, mask, scaling))
    return (outs[0] if len(outs) == 1 else torch.cat(outs))[None], None


def _refuse(module: torch.nn.Module, step: Any, softcap: float | None, other: dict[str, object]) -> None:
    if step is None:
        raise RuntimeError("a model held by a Target runs through Target.forward only")
    unknown = [name for name in ("s_aux", "position_bias") if other.get(name) is not None]
    if softcap is not None or unknown:
        what = "soft-capped logits" if softcap is not None else "attention sinks or position biases"
        raise UserError(f"{type(module).__name__} uses {what}, which the engine does not support")


AttentionInterface.register(NAME, packed_rows)
