"""Tree attention of several sequences at once, all their lengths on the device, as one operator.

Rows are packed and ragged: a sequence has as many as its draft has nodes. The kernel is
`kernels.py`'s, which finds a program's sequence from where each one's rows begin, or for one
sequence FlexAttention where a launch says so. Everywhere else each sequence attends by itself.

Shapes: R rows, W columns of the mask, S sequences, H query heads, K key/value heads,
D head dimension, P cached positions of a slot.
"""

import torch

from model.engine.device.launch import Launch
from model.engine.device.tree_attention import processors, tree_attention, uses_kernel


@torch.library.custom_op("spectts::packed_attention", mutates_args=("cache",))
def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: torch.Tensor,
    starts: torch.Tensor,
    slots: torch.Tensor,
    first_rows: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    launch: torch.Tensor,
) -> torch.Tensor:
    """[R, H, D] from query [R, H, D], new key and value [R, K, D] and cache [2, slots, P, K, D].

    Sequence i has the rows `first_rows[i]` to `first_rows[i + 1]` (int64 [S + 1]; none, where the
    two are equal) and the first `starts[i]` rows of cache slot `slots[i]` (int64 [S]). Its rows
    attend these, and those of its new rows that their row of `mask` (bool [R, W], column 0 is the
    sequence's first row) names; they are written behind the cached ones. Rows behind the last
    sequence are padding: they yield 0 and are written nowhere; by FlexAttention they yield anything
    and are written at the cache's last position. `launch` is a packed `Launch`.
    """
    how = Launch.unpacked(launch)
    if how.kernel == "flex":
        from model.engine.device import flex

        return flex.attend_packed(query, key, value, cache, starts, first_rows, mask, scaling)
    if uses_kernel(query.device, query.shape[-1]):
        from model.engine.device import kernels

        return kernels.attend_packed(
            query,
            key,
            value,
            cache,
            kernels.Layout(starts, slots, first_rows),
            mask,
            scaling,
            processors(query.device),
            how,
        )
    out = torch.zeros_like(query)
    borders = first_rows.tolist()
    for sequence, slot in enumerate(slots.tolist()):
        rows = slice(borders[sequence], borders[sequence + 1])
        if rows.start == rows.stop:
            continue
        own = mask[rows, : rows.stop - rows.start]
        start = starts[sequence : sequence + 1]
        out[rows] = tree_attention(
            query[rows], key[rows], value[rows], cache[:, slot], start, own, scaling, store=True
        )
    return out


@packed_attention.register_fake
def _shape_of_result(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: torch.Tensor,
    starts: torch.Tensor,
    slots: torch.Tensor,
    first_rows: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    launch: torch.Tensor,
) -> torch.Tensor:
    return query.new_empty(query.shape)
