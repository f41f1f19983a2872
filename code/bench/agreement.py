"""The device's operators against their references, at a model's own shapes (for `gpu.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from model.engine.device.draw import draw
from model.engine.device.tree_attention import reference, tree_attention
from model.engine.noise import PositionNoise, exponential
from model.engine.sampling import noisy_argmax

ROWS = (1, 2, 16, 64, 128)
STARTS = (0, 1, 63, 64, 65, 1000, 15000)
"""Cached rows: on and off the edges of the kernel's blocks."""
SPARE_ROWS = 7
"""Cache rows behind the last one written: they must stay as they are."""
DRAWN_ROWS = 9
TEMPERATURE = 0.6
LARGEST_DIFFERENCE = {"torch.float32": 1e-4, "torch.bfloat16": 3e-2}


@dataclass(frozen=True)
class Agreement:
    """How far the operators are from their references."""

    attention: dict[str, float]
    """Largest absolute difference by number type."""
    sampling: bool
    """Are all drawn tokens equal?"""

    @property
    def is_good(self) -> bool:
        near = [self.attention[name] < limit for name, limit in LARGEST_DIFFERENCE.items()]
        return self.sampling and all(near)


def agreement(config: PretrainedConfig, device: torch.device) -> Agreement:
    """Compare both operators; raises AssertionError where attention stores rows wrongly."""
    largest = {}
    for dtype in (torch.bfloat16, torch.float32):
        differences = []
        for rows in ROWS:
            for start in STARTS:
                differences.append(attention_difference(config, device, dtype, rows, start))
        largest[str(dtype)] = max(differences)
    return Agreement(largest, draws_agree(config.vocab_size, device))


def attention_difference(
    config: PretrainedConfig, device: torch.device, dtype: torch.dtype, rows: int, start: int
) -> float:
    """Largest difference from the fp32 reference over a random cache and mask.

    Taken without and with storing the new rows.
    """
    kv_heads, dim = config.num_key_value_heads, config.head_dim
    options = {"device": device, "dtype": dtype}
    query = torch.randn(rows, config.num_attention_heads, dim, **options)
    key = torch.randn(rows, kv_heads, dim, **options)
    value = torch.randn(rows, kv_heads, dim, **options)
    cache = torch.randn(2, start + rows + SPARE_ROWS, kv_heads, dim, **options)
    itself = torch.eye(rows, dtype=torch.bool, device=device)
    mask = (torch.rand(rows, rows, device=device) < 0.5) | itself
    at, scaling = torch.tensor([start], device=device), dim**-0.5
    in_fp32 = [tensor.float() for tensor in (query, key, value, cache)]
    expected = reference(*in_fp32, at, mask, scaling)
    written = cache.clone()
    differences = []
    for store in (False, True):
        result = tree_attention(query, key, value, written, at, mask, scaling, store)
        differences.append((result.float() - expected).abs().max().item())
    cache[:, start : start + rows] = torch.stack([key, value])
    if not torch.equal(written, cache):
        raise AssertionError(f"rows stored wrongly: {dtype}, {rows} rows at {start}")
    return max(differences)


def draws_agree(vocab_size: int, device: torch.device) -> bool:
    """Are tokens drawn on the device those that Gumbel-max draws with the same noise?"""
    logits = 3 * torch.randn(DRAWN_ROWS, vocab_size, device=device)
    keys = torch.tensor(PositionNoise(12345).keys(list(range(DRAWN_ROWS))), device=device)
    temperature = torch.tensor([TEMPERATURE], dtype=torch.float64, device=device)
    expected = noisy_argmax(logits / TEMPERATURE, exponential(keys, vocab_size))
    return torch.equal(draw(logits, keys, temperature), expected)
