"""The KV cache: preallocated for all layers and sequences, accepted rows kept in place.

Shapes: S slots (sequences), P positions, K key/value heads, D head dimension.
The cache does not know lengths: a sequence's length belongs to its `Sequence` (`decode.py`).
"""

from itertools import groupby

import torch


class KVCache:
    """Keys and values as [layer, 2, S, P, K, D], one block for each run of layers on one device (one GPU: one block)."""

    def __init__(self, devices: list[torch.device], slots: int, positions: int, kv_heads: int, head_dim: int,
                 dtype: torch.dtype) -> None:
        self.positions, self.slots = positions, slots
        self.blocks = [torch.zeros(len(list(layers)), 2, slots, positions, kv_heads, head_dim, dtype=dtype, device=device)
                       for device, layers in groupby(devices)]
        # Views made once: slicing a six-dimensional tensor twice a layer would cost a tenth of a small model's step.
        self._rows = [[(layer[0, s], layer[1, s]) for s in range(slots)] for block in self.blocks for layer in block]

    @property
    def data(self) -> torch.Tensor:
        """The block of a cache that lies on one device."""
        (block,) = self.blocks
        return block

    @property
    def bytes(self) -> int:
        return sum(block.numel() * block.element_size() for block in self.blocks)

    def write(self, layer: int, slot: int, start: int, key_KTD: torch.Tensor, value_KTD: torch.Tensor,
              ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put T rows behind the `start` cached ones; return all rows so far as [K, start+T, D] views."""
        keys, values = self._rows[layer][slot]
        end = start + key_KTD.shape[1]
        assert end <= self.positions, f"{end} rows do not fit a cache of {self.positions}"
        keys[start:end] = key_KTD.transpose(0, 1)
        values[start:end] = value_KTD.transpose(0, 1)
        return keys[:end].transpose(0, 1), values[:end].transpose(0, 1)

    def keep(self, slot: int, start: int, path: list[int]) -> None:
        """Move the rows `start + path` to `start...`; nothing moves where the path is a prefix of the rows."""
        moved = next((i for i, node in enumerate(path) if node != i), len(path))
        if moved == len(path):
            return
        for block in self.blocks:
            source = torch.tensor([start + node for node in path[moved:]], device=block.device)
            # advanced indexing copies first, so overlapping rows are safe
            block[:, :, slot, start + moved:start + len(path)] = block[:, :, slot, source]

    def fork(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` rows of one slot into another (samples of one prompt share its prefill)."""
        for block in self.blocks:
            block[:, :, target, :length] = block[:, :, source, :length]
