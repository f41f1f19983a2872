"""The KV cache: preallocated for all layers and sequences, accepted rows kept in place.

Shapes: S slots (sequences), P positions, K key/value heads, D head dimension, T new rows.
The cache does not know lengths: a sequence's length belongs to its `Sequence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch


class KVCache:
    """Keys and values as [layer, 2, S, P, K, D]: one block for each run of layers on one device."""

    def __init__(
        self,
        layer_devices: Sequence[torch.device],
        slots: int,
        positions: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
    ) -> None:
        self.positions, self.slots = positions, slots
        self.blocks: list[torch.Tensor] = []
        for device, layers in groupby(layer_devices):
            size = (len(list(layers)), 2, slots, positions, kv_heads, head_dim)
            self.blocks.append(torch.zeros(size, dtype=dtype, device=device))
        # Views made once: slicing a six-dimensional tensor twice a layer would cost a tenth of a
        # small model's step.
        self._rows: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
        for block in self.blocks:
            for layer in block:
                self._rows.append([(layer[0, slot], layer[1, slot]) for slot in range(slots)])

    @property
    def data(self) -> torch.Tensor:
        """The block of a cache that lies on one device."""
        (block,) = self.blocks
        return block

    @property
    def bytes(self) -> int:
        return sum(block.numel() * block.element_size() for block in self.blocks)

    def write(
        self, layer: int, slot: int, start: int, key_KTD: torch.Tensor, value_KTD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put T rows behind the `start` cached ones; returns all rows so far, [K, start+T, D]."""
        keys, values = self._rows[layer][slot]
        end = start + key_KTD.shape[1]
        assert end <= self.positions, f"{end} rows do not fit a cache of {self.positions}"
        keys[start:end] = key_KTD.transpose(0, 1)
        values[start:end] = value_KTD.transpose(0, 1)
        return keys[:end].transpose(0, 1), values[:end].transpose(0, 1)

    def keep(self, slot: int, start: int, path: list[int]) -> None:
        """Move the rows `start + path` to `start...`; a path that is a prefix moves nothing."""
        in_place = 0
        while in_place < len(path) and path[in_place] == in_place:
            in_place += 1
        if in_place == len(path):
            return
        for block in self.blocks:
            rows = [start + node for node in path[in_place:]]
            source = torch.tensor(rows, device=block.device)
            # advanced indexing copies first, so overlapping rows are safe
            kept = block[:, :, slot, source]
            block[:, :, slot, start + in_place : start + len(path)] = kept

    def fork(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` rows of one slot into another: samples share a prompt's rows."""
        for block in self.blocks:
            block[:, :, target, :length] = block[:, :, source, :length]
