"""Attention whose lengths live on the device: a few new rows over a cached prefix, as one operator.

An operator of PyTorch's, not a function, so that `torch.compile` passes it by. The kernel is ours
where Triton and a GPU are at hand (`kernels.py`). Everywhere else it is PyTorch's
scaled_dot_product_attention over the whole cache, which is also the reference.

Shapes: T rows, N new rows, H query heads, K key/value heads, D head dimension, P cached positions.
"""

import functools
import importlib.util
import os

import torch
import torch.nn.functional as F

INTERPRETED_PROCESSORS = 8
"""On a CPU Triton's interpreter splits a prefix as a GPU of so many multiprocessors would."""


@torch.library.custom_op("spectts::tree_attention", mutates_args=("cache",))
def tree_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: torch.Tensor,
    start: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    store: bool,
) -> torch.Tensor:
    """[T, H, D] from query [T, H, D], new key and value [N, K, D] and cache [2, P, K, D].

    Every row attends the first `start` (int64 [1], on the device) cached rows and the new rows that
    its row of `mask` (bool [T, N]) names. With `store` the new rows are written behind the cached
    ones; the caller sees to `start + N <= P`.
    """
    if uses_kernel(query.device, query.shape[-1]):
        from model.engine.device import kernels

        return kernels.attend(
            query, key, value, cache, start, mask, scaling, store, processors(query.device)
        )
    if store:
        rows = start + torch.arange(key.shape[0], device=key.device)
        cache.index_copy_(1, rows, torch.stack([key, value]))
    return reference(query, key, value, cache, start, mask, scaling)


@tree_attention.register_fake
def _shape_of_result(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: torch.Tensor,
    start: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    store: bool,
) -> torch.Tensor:
    return query.new_empty(query.shape)


def reference(
    query_THD: torch.Tensor,
    key_NKD: torch.Tensor,
    value_NKD: torch.Tensor,
    cache: torch.Tensor,
    start: torch.Tensor,
    mask_TN: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """The same by scaled_dot_product_attention over all P positions, masked beyond `start`."""
    is_cached = torch.arange(cache.shape[1], device=cache.device) < start
    allowed = torch.cat([is_cached.expand(len(mask_TN), -1), mask_TN], dim=1)
    keys = torch.cat([cache[0], key_NKD]).transpose(0, 1)[None]
    values = torch.cat([cache[1], value_NKD]).transpose(0, 1)[None]
    grouped = query_THD.shape[1] != key_NKD.shape[1]
    query = query_THD.transpose(0, 1)[None]
    out = F.scaled_dot_product_attention(
        query, keys, values, allowed, scale=scaling, enable_gqa=grouped
    )
    return out[0].transpose(0, 1).contiguous()


def uses_kernel(device: torch.device, dim: int = 64) -> bool:
    """A GPU, or Triton's interpreter where asked for; head dimensions that are a power of two."""
    fits = dim & (dim - 1) == 0 and dim >= 16
    return _has_triton() and fits and (device.type == "cuda" or interpreted())


def interpreted() -> bool:
    """Does Triton run its kernels on the CPU (the environment variable TRITON_INTERPRET)?"""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
