"""The device's operators against their references, at a model's own shapes."""

import torch
from transformers import PretrainedConfig

from model.engine.sampling import PositionNoise, draw, exponential, noisy_argmax
from model.engine.tree_attention import reference, tree_attention

ROWS = (1, 2, 16, 64, 128)
STARTS = (0, 1, 63, 64, 65, 1000, 15000)  # on and off the edges of blocks


def agreement(config: PretrainedConfig, device: torch.device) -> tuple[dict[str, float], bool]:
    """(largest absolute difference of attention by dtype, are all drawn tokens equal?); raises where rows are misstored."""
    worst = {str(dtype): max(attention(config, device, dtype, rows, start) for rows in ROWS for start in STARTS)
             for dtype in (torch.bfloat16, torch.float32)}
    logits = 3 * torch.randn(9, config.vocab_size, device=device)
    keys = torch.tensor(PositionNoise(12345).keys(list(range(9))), device=device)
    drawn = draw(logits, keys, torch.tensor([0.6], dtype=torch.float64, device=device))
    return worst, torch.equal(drawn, noisy_argmax(logits / 0.6, exponential(keys, config.vocab_size)))


def attention(config: PretrainedConfig, device: torch.device, dtype: torch.dtype, rows: int, start: int) -> float:
    """Largest difference from the fp32 reference over a random cache and mask, without and with storing."""
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    q, k, v = (torch.randn(rows, n, dim, device=device, dtype=dtype) for n in (heads, kv_heads, kv_heads))
    cache = torch.randn(2, start + rows + 7, kv_heads, dim, device=device, dtype=dtype)
    mask = (torch.rand(rows, rows, device=device) < 0.5) | torch.eye(rows, dtype=torch.bool, device=device)
    written, at = cache.clone(), torch.tensor([start], device=device)
    expected = reference(q.float(), k.float(), v.float(), cache.float(), at, mask, dim**-0.5)
    differences = [(tree_attention(q, k, v, written, at, mask, dim**-0.5, store).float() - expected).abs().max().item()
                   for store in (False, True)]
    cache[:, start:start + rows] = torch.stack([k, v])
    if not torch.equal(written, cache):
        raise AssertionError(f"rows stored wrongly: {dtype}, {rows} rows at {start}")
    return max(differences)
