"""The target's own tokens: argmax at temperature 0, Gumbel-max with noise that belongs to the output position above.

The noise is counter-based: a function of (request, output position, token id) and of nothing else, so a token does
not depend on how it was reached, and every method emits vanilla's text. Argmax of logits + Gumbel noise is a draw
from softmax (Gumbel 1954; Maddison et al. 2014); written here as argmin of E/p with E exponential.

Also speculative rejection sampling (Leviathan et al. 2023, algorithm 1; Chen et al. 2023) for drafts that carry the
distribution they were drawn from.

Shapes: N nodes, V vocabulary.
"""

import hashlib
from dataclasses import dataclass

import torch

from model.draft import Draft, Request
from model.engine.tree_attention import uses_kernel

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


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
    """Noise of one request; streams 0 (the target's token), 1 (acceptance) and 2 (a drafter's own draws) are independent."""

    key: int

    @classmethod
    def of(cls, request: Request) -> "PositionNoise":
        name = f"{request.seed}|{request.question_id}|{request.choice}|{request.sample}|{request.round}"
        return cls(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))

    def _position_key(self, position: int, stream: int) -> int:
        return _mix_int(self.key + _GOLDEN * (4 * position + stream + 1))

    def uniform(self, position: int, stream: int) -> float:
        """One number in (0, 1)."""
        return (_mix_int(self._position_key(position, stream) ^ _GOLDEN) + 0.5) / 2.0**64

    def keys(self, positions: list[int], stream: int = 0) -> list[int]:
        """What the noise of each output position is made from, as signed 64-bit numbers."""
        return [_signed(self._position_key(p, stream)) for p in positions]

    def exponential(self, positions: list[int], vocab: int, device: torch.device, stream: int = 0) -> torch.Tensor:
        """Standard exponential noise [len(positions), V], float32."""
        return exponential(torch.tensor(self.keys(positions, stream), device=device), vocab)


def exponential(keys_N: torch.Tensor, vocab: int) -> torch.Tensor:
    """Noise [N, V] of int64 keys, from 32 random bits b as -log(1 - b): small values, which decide, keep full precision."""
    bits = _mix(keys_N[:, None] + torch.arange(vocab, device=keys_N.device) * _signed(_GOLDEN)) & 0xFFFFFFFF
    return torch.log1p((bits.double() + 0.5) * -(2.0**-32)).neg_().float()


def draw(logits_NV: torch.Tensor, keys_N: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """The target's token [N] of each row at a temperature [1] on the device, without top-k or top-p.

    On a GPU one kernel makes the noise where it is used: as tensors of 152k columns it would cost half a step.
    """
    if uses_kernel(logits_NV.device):
        from model.engine import kernels

        return kernels.sample(logits_NV, keys_N, temperature)
    return noisy_argmax(logits_NV.float() / temperature.float(), exponential(keys_N, logits_NV.shape[-1]))


def processed(logits_NV: torch.Tensor, request: Request) -> torch.Tensor:
    """Temperature, then top-k, then top-p, in fp32, as log-weights (not normalised); needs temperature > 0."""
    scores = logits_NV.float() / request.temperature
    if request.top_k:
        kth = scores.topk(min(request.top_k, scores.shape[-1]), dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < kth, float("-inf"))
    if request.top_p < 1:
        ordered, index = scores.sort(dim=-1, descending=True, stable=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        drop = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, index, before >= request.top_p)
        scores = scores.masked_fill(drop, float("-inf"))
    return scores


def noisy_argmax(scores_NV: torch.Tensor, noise_NV: torch.Tensor) -> torch.Tensor:
    """Argmax of log-weights plus Gumbel noise, given as exponential noise E: Gumbel = -log E."""
    return (scores_NV - noise_NV.log()).argmax(-1)


def target_tokens(logits_NV: torch.Tensor, depths: list[int], first: int, request: Request,
                  noise: PositionNoise) -> torch.Tensor:
    """The target's own token [N] after each node; a node of depth d decides output position `first + d`."""
    if request.temperature == 0:
        return logits_NV.argmax(-1)
    levels = sorted(set(depths))
    table = noise.exponential([first + d for d in levels], logits_NV.shape[-1], logits_NV.device)
    if len(levels) != len(depths):
        rank = {d: i for i, d in enumerate(levels)}
        table = table[torch.tensor([rank[d] for d in depths], device=table.device)]
    return noisy_argmax(processed(logits_NV, request), table)


def rejection_tokens(logits_NV: torch.Tensor, draft: Draft, first: int, request: Request,
                     noise: PositionNoise) -> torch.Tensor:
    """Tokens [N] after each node of a chain under speculative rejection sampling.

    Where drafted token x is accepted, with probability min(1, p(x)/q(x)), node i yields x itself; elsewhere a draw
    from the residual max(p - q, 0), normalised. The last node yields a draw from p.
    """
    n = len(draft.tokens)
    p_NV = processed(logits_NV, request).softmax(-1)
    positions = [first + i for i in range(n)]
    fresh = noise.exponential(positions, p_NV.shape[-1], p_NV.device)
    q_MV = draft.probabilities.to(p_NV)
    drawn_M = torch.tensor(list(draft.tokens[1:]), device=p_NV.device)
    u_M = torch.tensor([noise.uniform(p, stream=1) for p in positions[:-1]], device=p_NV.device)
    p_at, q_at = (t[:n - 1].gather(1, drawn_M[:, None])[:, 0] for t in (p_NV, q_MV))
    weights = p_NV.clone()
    weights[:n - 1] = (p_NV[:n - 1] - q_MV).clamp_min(0)
    # p == q leaves nothing to draw from, and is never rejected
    tokens = noisy_argmax(weights.log(), fresh)
    tokens[:n - 1] = torch.where(u_M * q_at < p_at, drawn_M, tokens[:n - 1])
    return tokens
