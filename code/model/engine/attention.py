"""Attention of packed rows: several sequences side by side in one [1, R] input, each over its own
cached rows.

Registered with transformers under a name that has no mask function, so transformers builds no mask
and hands every keyword argument of `model(...)` through to us: the `step` carries cache, segments
and masks. The models stay as they are.

Shapes: H query heads, K key/value heads, G = H/K, T rows of a segment, R rows of all,
L cached + T rows, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F

from model.engine.cache import KVCache
from model.engine.forward import Segment
from model.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "packed_rows"
GROUPED_ROWS = 64
"""Up to so many rows the queries of a group are folded into rows (no copy of keys); above, the
mask would be large. On a GPU they always are: for a masked `enable_gqa` it has only the kernel that
writes all scores out, 1 GB for 512 rows at 15,000 positions."""


class RecordedStep(Protocol):
    """A step whose lengths are tensors: what a backend passes through the model to be recorded."""

    features: dict[int, torch.Tensor]

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Write [1, K, T, D] keys and values, attend with query [1, H, T, D]: [1, T, H, D]."""
        ...


@dataclass
class Step:
    """One forward's worth of segments; masks are made once and shared by all layers."""

    cache: KVCache
    segments: list[Segment]
    dtype: torch.dtype
    device: torch.device
    features: dict[int, torch.Tensor] = field(default_factory=dict)
    """The residual stream entering a layer, [R, H], by layer."""
    _masks: dict[tuple[int, int, int | None], torch.Tensor | None] = field(default_factory=dict)

    def mask(self, index: int, groups: int, window: int | None) -> torch.Tensor | None:
        """Additive mask [groups*T, L] of a segment; None where every row attends everything."""
        key = (index, groups, window)
        if key not in self._masks:
            self._masks[key] = self._build(self.segments[index], groups, window)
        return self._masks[key]

    def _build(self, segment: Segment, groups: int, window: int | None) -> torch.Tensor | None:
        rows, start = len(segment), segment.start
        windowed = window is not None and start + rows > window
        if rows == 1 and not windowed:
            return None
        among_new = segment.mask
        if among_new is None:
            among_new = torch.ones(rows, rows, dtype=torch.bool, device=self.device).tril()
        among_new = among_new.to(self.device)
        allowed = torch.cat([among_new.new_ones(rows, start), among_new], dim=1)
        if window is not None and windowed:
            position = torch.as_tensor(list(segment.positions), device=self.device)
            all_positions = torch.cat([torch.arange(start, device=self.device), position])
            allowed = allowed & (position[:, None] - all_positions[None, :] < window)
        additive = torch.zeros(allowed.shape, dtype=self.dtype, device=self.device)
        return additive.masked_fill_(~allowed, float("-inf")).repeat(groups, 1)


def attend(
    query_HTD: torch.Tensor,
    key_KLD: torch.Tensor,
    value_KLD: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """Softmax attention [T, H, D]. A mask of G*T rows folds the queries of a group into rows."""
    heads, rows, dim = query_HTD.shape
    kv_heads = key_KLD.shape[0]
    keys, values = key_KLD[None], value_KLD[None]
    folded = mask is None or mask.shape[0] != rows or heads == kv_heads
    if folded:
        query = query_HTD.reshape(1, kv_heads, heads // kv_heads * rows, dim)
        out = F.scaled_dot_product_attention(query, keys, values, mask, scale=scaling)
        # reshape, not view: some CUDA kernels return another layout
        return out.reshape(heads, rows, dim).transpose(0, 1)
    out = F.scaled_dot_product_attention(
        query_HTD[None], keys, values, mask, scale=scaling, enable_gqa=True
    )
    return out[0].transpose(0, 1)


def use_packed_rows(network: PreTrainedModel) -> None:
    """Let the network's layers attend by `packed_rows`."""
    # transformers takes seconds to load: not before there is a network
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_rows)
    network.set_attn_implementation(NAME)


def packed_rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    step: Step | RecordedStep | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **other: object,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer; the signature is transformers'.

    query [1, H, R, D], key and value [1, K, R, D] -> [1, R, H, D]. Raises UserError for kinds of
    attention that the engine does not have.
    """
    _refuse(module, softcap, other)
    if step is None:
        raise RuntimeError("a network held by a Model runs through Model.forward only")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not isinstance(step, Step):
        return step.attend(module, query, key, value, scaling), None
    groups = query.shape[1] // key.shape[1]
    layer: Any = module.layer_idx
    outs: list[torch.Tensor] = []
    row = 0
    for index, segment in enumerate(step.segments):
        rows = slice(row, row + len(segment))
        row = rows.stop
        keys, values = step.cache.write(
            layer, segment.slot, segment.start, key[0, :, rows], value[0, :, rows]
        )
        folded = len(segment) <= GROUPED_ROWS or query.is_cuda
        mask = step.mask(index, groups if folded else 1, sliding_window)
        if mask is not None and mask.device != keys.device:
            mask = mask.to(keys.device)  # layers on another GPU than the first
        outs.append(attend(query[0, :, rows], keys, values, mask, scaling))
    attended = outs[0] if len(outs) == 1 else torch.cat(outs)
    return attended[None], None


def _refuse(module: torch.nn.Module, softcap: float | None, other: dict[str, object]) -> None:
    has_sinks = any(other.get(name) is not None for name in ("s_aux", "position_bias"))
    if softcap is None and not has_sinks:
        return
    what = "soft-capped logits" if softcap is not None else "attention sinks or position biases"
    raise UserError(f"{type(module).__name__} uses {what}, which the engine does not support")
