"""The KV cache: one preallocated block for all layers and sequences, accepted rows kept in place.

Shapes: S slots (sequences), P positions, K key/value heads, D head dimension.
The cache does not know lengths: a sequence's length belongs to its `Sequence` (`decode.py`).
"""

import torch


class KVCache:
    """Keys and values as [layer, 2, S, P, K, D]; a write or a move touches whole rows."""

    def __init__(self, layers: int, slots: int, positions: int, kv_heads: int, head_dim: int,
                 dtype: torch.dtype, device: torch.device) -> None:
        self.data = torch.zeros(layers, 2, slots, positions, kv_heads, head_dim, dtype=dtype, device=device)
        self.positions = positions
        # Views made once: slicing a six-dimensional tensor twice a layer would cost a tenth of a small model's step.
        self._rows = [[(layer[0, s], layer[1, s]) for s in range(slots)] for layer in self.data]

    @property
    def bytes(self) -> int:
        return self.data.numel() * self.data.element_size()

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
        source = torch.tensor([start + node for node in path[moved:]], device=self.data.device)
        # advanced indexing copies first, so overlapping rows are safe
        self.data[:, :, slot, start + moved:start + len(path)] = self.data[:, :, slot, source]

    def fork(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` rows of one slot into another (samples of one prompt share its prefill)."""
        self.data[:, :, target, :length] = self.data[:, :, source, :length]
