"""The one read of a step: what the device has picked, on the host."""

from __future__ import annotations

import numpy as np
import torch


def to_host(tensor: torch.Tensor) -> np.ndarray:
    """Through pinned memory on a GPU: a copy into pageable memory goes by way of one anyway, and
    holds up the host meanwhile. PyTorch keeps and reuses pinned blocks."""
    if not tensor.is_cuda:
        return tensor.numpy()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host.numpy()
