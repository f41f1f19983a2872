"""How much memory a checkpoint needs, before it is loaded.

Weights follow from the configuration, the cache from its shapes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.errors import UserError, first_line

OVERHEAD = 1.1
"""A tenth on top of weights and cache: activations, the allocator, and what recorded graphs keep
(mostly logits: 1,200 rows of all buckets are 0.4 GB in bfloat16 for 152k tokens)."""
MEMORY_OF_LINUX = Path("/proc/meminfo")
FEWEST_USEFUL_TOKENS = 512
"""Tokens: with less room than this, a smaller model is what helps."""


@dataclass(frozen=True)
class CacheSize:
    """Of every cache of a run: its number type, and tokens of each of so many sequences."""

    dtype: torch.dtype
    positions: int
    sequences: int = 1


@dataclass(frozen=True)
class Footprint:
    """Bytes of the weights, of the input embedding that a step need not read, of a cached token."""

    weights: int
    unread_embedding: int
    token: int

    def total(self, positions: int, sequences: int = 1) -> int:
        """Weights and a cache of `positions` tokens a sequence, with the overhead."""
        return int(OVERHEAD * (self.weights + sequences * positions * self.token))

    def step_bytes(self, context: float, sequences: int = 1) -> float:
        """What one vanilla step reads at this context length of every sequence."""
        return self.weights - self.unread_embedding + sequences * context * self.token

    def room(self, free: float) -> int:
        """Cached tokens that fit beside the weights into `free` bytes."""
        return int((free / OVERHEAD - self.weights) / self.token)


def footprint(config: Any, dtype: torch.dtype) -> Footprint:
    """Of a causal language model of this configuration; nothing is allocated (meta device)."""
    try:
        return _footprint(config, dtype)
    except Exception as error:  # a configuration that no network with a cache can be built from
        raise UserError(
            f"no causal language model with attention can be built from a configuration of type"
            f" '{config.model_type}': {first_line(error)}"
        ) from None


def _footprint(config: Any, dtype: torch.dtype) -> Footprint:
    from transformers import AutoModelForCausalLM  # takes seconds: not before it is needed

    size = torch.empty(0, dtype=dtype).element_size()
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    text = config.get_text_config()
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    weights = sum(weight.numel() for weight in network.parameters())
    is_tied = bool(getattr(config, "tie_word_embeddings", False))
    embedding = 0 if is_tied else network.get_input_embeddings().weight.numel()
    return Footprint(
        weights=weights * size,
        unread_embedding=embedding * size,
        token=text.num_hidden_layers * 2 * kv_heads * head_dim * size,
    )


def free_bytes(device: str) -> int | None:
    """What may still be allocated there; None where nobody tells."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    if not MEMORY_OF_LINUX.exists():
        return None
    said = re.search(r"MemAvailable:\s*(\d+) kB", MEMORY_OF_LINUX.read_text())
    return int(said[1]) * 1024 if said else None


def check_fits(
    config: Any,
    dtype: torch.dtype,
    device: str,
    positions: int,
    sequences: int = 1,
    beside: int = 0,
) -> None:
    """Raise UserError for what the device cannot hold, and say what would fit.

    `beside` is what drafters will hold, bytes.
    """
    free = free_bytes(device)
    if free is None:
        return
    free -= beside
    need = footprint(config, dtype)
    if need.total(positions, sequences) <= free:
        return
    room = need.room(free)
    together = room // positions
    remedy = "use a smaller model, --dtype bfloat16, or several GPUs with --device-map auto"
    if together:
        remedy = f"{together} text(s) of this length fit together: --parallel {together}"
    elif room > FEWEST_USEFUL_TOKENS:
        remedy = f"up to {room} tokens of prompt and answer fit: lower --max-new-tokens"
    cached = sequences * positions
    left = f" beside {beside / 1e9:.1f} GB of drafters" if beside else ""
    raise UserError(
        f"{device} has {free / 1e9:.1f} GB free{left}; weights need {need.weights / 1e9:.1f} GB and"
        f" {cached} cached tokens {cached * need.token / 1e9:.1f} GB; {remedy}"
    )
