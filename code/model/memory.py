"""How much memory a checkpoint needs, before it is loaded: weights from the configuration, cache from its shapes."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from model.errors import UserError


@dataclass(frozen=True)
class Footprint:
    """Bytes of the weights, of the input embedding that a step need not read, and of one cached token."""

    weights: int
    unread_embedding: int
    token: int

    def total(self, positions: int) -> int:
        """Weights and cache of `positions` tokens, with a tenth on top for activations and the allocator."""
        return int(1.1 * (self.weights + positions * self.token))

    def step_bytes(self, context: float) -> float:
        """What one vanilla step reads at this context length."""
        return self.weights - self.unread_embedding + context * self.token


def footprint(config: Any, dtype: torch.dtype) -> Footprint:
    """Of a causal language model of this configuration; nothing is allocated (meta device)."""
    size = torch.empty(0, dtype=dtype).element_size()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    embedding = model.get_input_embeddings().weight.numel()
    tied = bool(getattr(config, "tie_word_embeddings", False))
    weights = sum(p.numel() for p in model.parameters())
    return Footprint(weights * size, 0 if tied else embedding * size, text.num_hidden_layers * 2 * kv_heads * head_dim * size)


def check_fits(config: Any, dtype: torch.dtype, device: str, positions: int) -> None:
    """Refuse to load what the GPU cannot hold, and say what would fit."""
    if not device.startswith("cuda"):
        return
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    need = footprint(config, dtype)
    if need.total(positions) <= free:
        return
    room = int((free / 1.1 - need.weights) / need.token)
    remedy = (f"up to {room} tokens of prompt and answer fit: lower --max-new-tokens" if room > 512 else
              "use a smaller model, --dtype bfloat16, or several GPUs with --device-map auto")
    raise UserError(f"{device} has {free / 1e9:.1f} GB free; weights need {need.weights / 1e9:.1f} GB and {positions} cached"
                    f" tokens {positions * need.token / 1e9:.1f} GB; {remedy}")
