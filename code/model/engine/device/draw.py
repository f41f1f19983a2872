"""Drawing the target's tokens on the device, with the noise of their positions.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

import torch

from model.engine.device.tree_attention import uses_kernel
from model.engine.noise import exponential
from model.engine.sampling import noisy_argmax


def draw(logits_NV: torch.Tensor, keys_N: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """The target's token [N] of each row, without top-k or top-p.

    `keys_N` are int64 (`PositionNoise.keys`), `temperature` is [1] on the device. On a GPU one
    kernel makes the noise where it is used: as tensors of 152k columns it would cost half a step.
    """
    if uses_kernel(logits_NV.device):
        from model.engine.device import kernels

        return kernels.sample(logits_NV, keys_N, temperature)
    scores = logits_NV.float() / temperature.float()
    return noisy_argmax(scores, exponential(keys_N, logits_NV.shape[-1]))
