"""Noise that belongs to the output position: what makes every method emit vanilla's text.

It is counter-based: a function of (request, output position, token id) and of nothing else, so a
token does not depend on how it was reached. Below everything: knows no request, no model.

Shapes: N positions, V vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)

TARGET, ACCEPTANCE, DRAFTER = 0, 1, 2
"""Independent streams: the target's token, acceptance (rejection sampling), a drafter's draws."""


class Identity(Protocol):
    """What tells one generation from another (`contract.Request` has it)."""

    @property
    def seed(self) -> int: ...
    @property
    def question_id(self) -> str: ...
    @property
    def choice(self) -> int: ...
    @property
    def sample(self) -> int: ...
    @property
    def round(self) -> int: ...


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


def _mix_int(z: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) on a Python integer."""
    z &= _MASK
    z = ((z ^ (z >> 30)) * _MIX[0]) & _MASK
    z = ((z ^ (z >> 27)) * _MIX[1]) & _MASK
    return z ^ (z >> 31)


def _mix(z: torch.Tensor) -> torch.Tensor:
    """The same on int64 tensors, whose products wrap around; shifts are made logical by masking."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(_MIX[0])
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(_MIX[1])
    return z ^ ((z >> 31) & ((1 << 33) - 1))


@dataclass(frozen=True)
class PositionNoise:
    """The noise of one generation."""

    key: int

    @classmethod
    def of(cls, identity: Identity) -> PositionNoise:
        name = "|".join(
            str(part)
            for part in (
                identity.seed,
                identity.question_id,
                identity.choice,
                identity.sample,
                identity.round,
            )
        )
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return cls(int.from_bytes(digest, "little"))

    def _position_key(self, position: int, stream: int) -> int:
        return _mix_int(self.key + _GOLDEN * (4 * position + stream + 1))

    def uniform(self, position: int, stream: int) -> float:
        """One number in (0, 1)."""
        return (_mix_int(self._position_key(position, stream) ^ _GOLDEN) + 0.5) / 2.0**64

    def keys(self, positions: list[int], stream: int = TARGET) -> list[int]:
        """What the noise of each output position is made from, as signed 64-bit numbers."""
        key_of = {}  # the nodes of a tree share few positions
        for position in set(positions):
            key_of[position] = _signed(self._position_key(position, stream))
        return [key_of[position] for position in positions]

    def exponential(
        self, positions: list[int], vocab: int, device: torch.device, stream: int = TARGET
    ) -> torch.Tensor:
        """Standard exponential noise [N, V], float32, one row a position."""
        return exponential(torch.tensor(self.keys(positions, stream), device=device), vocab)


def exponential(keys_N: torch.Tensor, vocab: int) -> torch.Tensor:
    """Noise [N, V] of int64 keys: -log(1 - b) of 32 random bits b.

    Small values decide, and this form keeps their full precision.
    """
    tokens = torch.arange(vocab, device=keys_N.device)
    bits = _mix(keys_N[:, None] + tokens * _signed(_GOLDEN)) & 0xFFFFFFFF
    return torch.log1p((bits.double() + 0.5) * -(2.0**-32)).neg_().float()
