"""What the engine needs to know of a causal language model, and which models it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from model.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNLIMITED = 1 << 30


@dataclass(frozen=True)
class Shape:
    """Sizes and traits of a model as loaded."""

    vocab_size: int
    """Rows of its output layer, not the tokenizer's length."""
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    windowed: bool
    """Does any layer attend a sliding window only?"""
    layer_devices: tuple[torch.device, ...]
    """Where each decoder layer lies."""
    devices: frozenset[torch.device]
    """Where any weight lies."""

    @property
    def groups(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.kv_heads


def shape_of(network: PreTrainedModel) -> Shape:
    """The shape of a loaded model; raises UserError for one the engine cannot run losslessly."""
    config = network.config.get_text_config()
    _refuse(config)
    heads = config.num_attention_heads
    layers = network.get_decoder().layers
    return Shape(
        vocab_size=network.get_output_embeddings().weight.shape[0],
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        max_positions=getattr(config, "max_position_embeddings", None) or UNLIMITED,
        windowed=_is_windowed(config),
        layer_devices=tuple(next(layer.parameters()).device for layer in layers),
        devices=frozenset(weight.device for weight in network.parameters()),
    )


def _is_windowed(config: Any) -> bool:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) or 0
    return kinds != {"full_attention"} or window > 0


def _refuse(config: Any) -> None:
    """Models whose text depends on how many rows run at once, or whose layers keep other state."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = (rope.get("rope_type") or rope.get("type")) if isinstance(rope, dict) else None
    if kind in ("dynamic", "longrope"):
        raise UserError(
            f"rotary embeddings of type '{kind}' depend on the longest position of a forward,"
            " so drafting would change the text; such models are not supported"
        )
    supported = {"full_attention", "sliding_attention"}
    unknown = set(getattr(config, "layer_types", None) or ()) - supported
    if unknown:
        raise UserError(
            f"layers of type {', '.join(sorted(unknown))} are not supported;"
            " full and sliding attention are"
        )
