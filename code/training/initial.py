"""What a head takes over from its target: sizes, and first weights where the target has the like.

Targets name things differently, fuse gate and up projection (Phi-3, GLM-4), or have another kind of
feed-forward (experts, GELU). What a target does not have begins at random.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from model.eagle3.head import Eagle3Head

NORM_NAMES = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
WIDTHS = ("intermediate_size", "ffn_dim")
DEFAULT_EPSILON = 1e-6
DEFAULT_WIDTH = 4
"""Times the hidden size."""


def epsilon(config: Any) -> float:
    """Of the target's norms."""
    values = (getattr(config, name, None) for name in EPSILONS)
    return next((float(value) for value in values if value), DEFAULT_EPSILON)


def width(config: Any) -> int:
    """Of the target's feed-forward."""
    values = (getattr(config, name, None) for name in WIDTHS)
    fallback = DEFAULT_WIDTH * config.hidden_size
    return next((value for value in values if isinstance(value, int)), fallback)


def kv_heads(config: Any) -> int:
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


@torch.no_grad()
def take_over(head: Eagle3Head, target: PreTrainedModel, drafted: torch.Tensor) -> None:
    """Copy what fits: the last layer's MLP, the final norm, the output rows of `drafted` [W]."""
    decoder: Any = target.get_decoder()
    output_layer = target.get_output_embeddings()
    head.lm_head.weight.copy_(output_layer.weight[drafted.to(target.device)])
    norm = next((getattr(decoder, name) for name in NORM_NAMES if hasattr(decoder, name)), None)
    _copy(head.norm.weight, getattr(norm, "weight", None))
    mlp = getattr(decoder.layers[-1], "mlp", None)
    own = head.midlayer.mlp
    fused = getattr(getattr(mlp, "gate_up_proj", None), "weight", None)
    if isinstance(fused, torch.Tensor) and fused.shape[0] == 2 * own.gate_proj.weight.shape[0]:
        gate, up = fused.chunk(2)
        _copy(own.gate_proj.weight, gate)
        _copy(own.up_proj.weight, up)
    else:
        _copy(own.gate_proj.weight, _weight(mlp, "gate_proj"))
        _copy(own.up_proj.weight, _weight(mlp, "up_proj"))
    _copy(own.down_proj.weight, _weight(mlp, "down_proj"))


def _weight(module: Any, name: str) -> Any:
    return getattr(getattr(module, name, None), "weight", None)


def _copy(own: torch.Tensor, given: Any) -> None:
    if isinstance(given, torch.Tensor) and given.shape == own.shape:
        own.copy_(given)
