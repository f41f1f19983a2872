"""Attention over packed rows by PyTorch's FlexAttention, with its lengths on the device.

FlexAttention (Dong et al. 2024) compiles a kernel from a function that says what a row attends. It
skips blocks of keys behind the text and masks none of those before the new rows. For one sequence:
its keys are a slot of the cache.

Shapes: R rows, W columns of the mask, H query heads, K key/value heads, D head dimension,
P cached positions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.nn.attention.flex_attention import BlockMask, FlexKernelOptions, flex_attention

BLOCK = 128
"""Keys, and rows, of a block."""
SMALLEST_TILE, LARGEST_TILE = 16, 64


def attend_packed(
    query_RHD: torch.Tensor,
    key_RKD: torch.Tensor,
    value_RKD: torch.Tensor,
    cache: torch.Tensor,
    starts: torch.Tensor,
    first_rows: torch.Tensor,
    mask_RW: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """[R, H, D]: `packed_attention` of the first sequence over a cache [2, 1, P, K, D].

    Its last position is written too, where there is padding: a backend keeps it spare.
    """
    attend = compiled() if query_RHD.is_cuda else stored_and_attended
    start, rows = starts[:1], first_rows[1:2]
    # the slot is taken here: of a view made inside, Inductor would copy the whole cache
    return attend(query_RHD, key_RKD, value_RKD, cache[:, 0], start, rows, mask_RW, scaling)


@functools.cache
def compiled() -> Callable[..., torch.Tensor]:
    """One function for all layers, compiled for each number of rows: a kernel for any number would
    keep the tile that its first one took, and so depend on their order."""
    return torch.compile(stored_and_attended, dynamic=False)


def stored_and_attended(
    query_RHD: torch.Tensor,
    key_RKD: torch.Tensor,
    value_RKD: torch.Tensor,
    cached: torch.Tensor,
    start: torch.Tensor,
    rows: torch.Tensor,
    mask_RW: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """The new rows, of which `rows` [1] count, written behind the `start` [1] ones that are
    `cached` [2, P, K, D]; and attention."""
    positions = cached.shape[1]
    order = torch.arange(len(query_RHD), device=query_RHD.device)
    places = torch.where(order < rows, start + order, positions - 1)
    cached.index_copy_(1, places, torch.stack([key_RKD, value_RKD]))
    keys, values = (of_all.transpose(0, 1)[None] for of_all in cached)
    out = flex_attention(
        query_RHD.transpose(0, 1)[None],
        keys,
        values,
        block_mask=blocks(start, rows, mask_RW, positions),
        scale=scaling,
        enable_gqa=query_RHD.shape[1] != key_RKD.shape[1],
        kernel_options=tile(query_RHD, key_RKD),
    )
    assert isinstance(out, torch.Tensor)
    return out[0].transpose(0, 1).contiguous()


def tile(query_RHD: torch.Tensor, key_RKD: torch.Tensor) -> FlexKernelOptions:
    """(row, query head) pairs of a program, as many as there are: left to itself, PyTorch 2.13 asks
    for more than it has a kernel for from 33 rows of four query heads on."""
    pairs = len(query_RHD) * query_RHD.shape[1] // key_RKD.shape[1]
    return {"BLOCK_M": min(LARGEST_TILE, max(SMALLEST_TILE, 1 << (pairs - 1).bit_length()))}


def blocks(
    start: torch.Tensor, rows: torch.Tensor, mask_RW: torch.Tensor, positions: int
) -> BlockMask:
    """Which blocks of keys any row attends: whole ones before the text's end, then masked ones."""
    columns = mask_RW.shape[1]

    def attends(
        batch: torch.Tensor, head: torch.Tensor, row: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        new = position - start[0]
        is_new = (new >= 0) & (new < rows[0])
        return (new < 0) | (is_new & mask_RW[row, new.clamp(0, columns - 1)])

    of_rows, of_keys = -(-len(mask_RW) // BLOCK), -(-positions // BLOCK)
    order = torch.arange(of_keys, device=start.device)
    whole = start // BLOCK
    masked = (start + rows + BLOCK - 1) // BLOCK - whole
    behind = (whole + order).clamp(max=of_keys - 1)

    def each(values: torch.Tensor) -> torch.Tensor:
        """The same for every block of rows."""
        return values.to(torch.int32).expand(1, 1, of_rows, len(values)).contiguous()

    return BlockMask.from_kv_blocks(
        kv_num_blocks=each(masked)[..., 0],
        kv_indices=each(behind),
        full_kv_num_blocks=each(whole)[..., 0],
        full_kv_indices=each(order),
        BLOCK_SIZE=BLOCK,
        mask_mod=attends,
        seq_lengths=(len(mask_RW), positions),
        compute_q_blocks=False,
    )
