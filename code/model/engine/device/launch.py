"""How attention over packed rows is launched: by our kernel under some settings, or otherwise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

KERNELS = ("split_kv", "flex")
"""Our kernel over a split prefix (`kernels.py`), and PyTorch's FlexAttention (`flex.py`)."""


@dataclass(frozen=True)
class Launch:
    """A kernel and, for `split_kv`, its settings. Raises ValueError for those that cannot be."""

    kernel: str = KERNELS[0]
    tile: int = 64
    """(row, query head) pairs of a program at most: its accumulator stays in registers."""
    block: int = 64
    """Keys folded at a time."""
    warps: int = 4
    stages: int = 0
    """Blocks on their way; 0: as many as let two programs share a processor."""
    programs: int = 2
    """Of a processor, into which the prefix is split."""

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"'{self.kernel}' is none of {', '.join(KERNELS)}")
        for name in ("tile", "block", "warps"):
            value, least = getattr(self, name), 1 if name == "warps" else 16
            if value < least or value & (value - 1):
                raise ValueError(f"{name} is a power of two from {least} on, not {value}")
        if self.stages < 0 or self.programs < 1:
            raise ValueError("stages are 0 or more, programs 1 or more")

    def packed(self) -> torch.Tensor:
        """int64 [6] on the CPU: as a tensor, one compiled graph takes every launch."""
        settings = (self.tile, self.block, self.warps, self.stages, self.programs)
        return torch.tensor([KERNELS.index(self.kernel), *settings])

    @classmethod
    def unpacked(cls, packed: torch.Tensor) -> Launch:
        kernel, *settings = packed.tolist()
        return cls(KERNELS[kernel], *settings)

    def changed(self) -> dict[str, int]:
        """Settings that are not the default."""
        default = dataclasses.asdict(DEFAULT)
        own = dataclasses.asdict(self)
        return {name: own[name] for name in own if name != "kernel" and own[name] != default[name]}

    def __str__(self) -> str:
        settings = [f"{name}={value}" for name, value in self.changed().items()]
        return " ".join([self.kernel, *settings])


DEFAULT = Launch()
CANDIDATES = (
    DEFAULT,
    Launch(stages=3),
    Launch(programs=1),
    Launch(programs=4),
    Launch(block=32, stages=4),
    Launch(warps=8, stages=3),
    Launch(block=128, warps=8, stages=2, programs=1),
    Launch(tile=128, warps=8, stages=2, programs=1),
    Launch(tile=128, block=32, warps=8, stages=3, programs=1),
    Launch("flex"),
)
"""What a card is asked to choose from; compiled for Hopper none of them spills registers."""
