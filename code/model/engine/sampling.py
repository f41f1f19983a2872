"""The target's own tokens: argmax at temperature 0, above it Gumbel-max with the position's noise.

Argmax of logits + Gumbel noise is a draw from softmax (Gumbel 1954; Maddison et al. 2014). The
noise belongs to the output position (`noise.py`), so every method emits vanilla's text.

Also speculative rejection sampling (Leviathan et al. 2023, algorithm 1; Chen et al. 2023) for
drafts that carry the distribution they were drawn from.

Shapes: N nodes, V vocabulary.
"""

from __future__ import annotations

import torch

from model.contract import Draft, Request
from model.engine.noise import ACCEPTANCE, PositionNoise, exponential


def processed(logits_NV: torch.Tensor, request: Request) -> torch.Tensor:
    """Temperature, then top-k, then top-p, in fp32: log-weights [N, V], not normalised.

    Needs a temperature above 0.
    """
    # a tensor on the device: by a number PyTorch multiplies with the inverse there, which rounds
    temperature = torch.full((), request.temperature, device=logits_NV.device)
    scores = logits_NV.float() / temperature
    if request.sampling_top_k:
        k = min(request.sampling_top_k, scores.shape[-1])
        kth = scores.topk(k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < kth, float("-inf"))
    if request.sampling_top_p < 1:
        ordered, index = scores.sort(dim=-1, descending=True, stable=True)
        mass = ordered.softmax(-1)
        mass_before = mass.cumsum(-1) - mass
        outside = torch.zeros_like(scores, dtype=torch.bool)
        outside = outside.scatter(-1, index, mass_before >= request.sampling_top_p)
        scores = scores.masked_fill(outside, float("-inf"))
    return scores


def noisy_argmax(scores_NV: torch.Tensor, noise_NV: torch.Tensor) -> torch.Tensor:
    """Argmax [N] of log-weights plus Gumbel noise, given as exponential noise E: -log E."""
    return (scores_NV - noise_NV.log()).argmax(-1)


def target_tokens(
    logits_NV: torch.Tensor,
    depths: list[int],
    first: int,
    request: Request,
    noise: PositionNoise,
) -> torch.Tensor:
    """The target's own token [N] after each node.

    A node of depth d decides output position `first + d`; nodes of equal depth share its noise.
    """
    if request.temperature == 0:
        return logits_NV.argmax(-1)
    keys = noise.keys([first + depth for depth in depths])
    return tokens_of_keys(logits_NV, keys, request)


def tokens_of_keys(logits_NV: torch.Tensor, keys: list[int], request: Request) -> torch.Tensor:
    """Draw a token [N] from each row, with the noise of each row's key (`PositionNoise.keys`).

    The rows may be of several texts that are sampled alike; `request` says how, at a temperature
    above 0.
    """
    row_of: dict[int, int] = {}  # equal keys, equal noise: it is made once
    rows = [row_of.setdefault(key, len(row_of)) for key in keys]
    device = logits_NV.device
    noise_NV = exponential(torch.tensor(list(row_of), device=device), logits_NV.shape[-1])
    if len(row_of) != len(keys):
        noise_NV = noise_NV[torch.tensor(rows, device=device)]
    return noisy_argmax(processed(logits_NV, request), noise_NV)


def rejection_tokens(
    logits_NV: torch.Tensor, draft: Draft, first: int, request: Request, noise: PositionNoise
) -> torch.Tensor:
    """Tokens [N] after each node of a chain under speculative rejection sampling.

    Where drafted token x is accepted, with probability min(1, p(x)/q(x)), node i yields x itself;
    elsewhere a draw from the residual max(p - q, 0), normalised. The last node yields a draw
    from p.
    """
    assert draft.probabilities is not None, "only a draft that carries its distribution"
    drafted = len(draft.tokens) - 1
    p_NV = processed(logits_NV, request).softmax(-1)
    q_MV = draft.probabilities.to(p_NV)
    positions = [first + i for i in range(drafted + 1)]
    drawn_M = torch.tensor(list(draft.tokens[1:]), device=p_NV.device)
    u_M = torch.tensor(
        [noise.uniform(position, ACCEPTANCE) for position in positions[:-1]], device=p_NV.device
    )
    p_M = p_NV[:drafted].gather(1, drawn_M[:, None])[:, 0]
    q_M = q_MV.gather(1, drawn_M[:, None])[:, 0]
    residual_NV = p_NV.clone()
    residual_NV[:drafted] = (p_NV[:drafted] - q_MV).clamp_min(0)
    # p == q leaves nothing to draw from, and is never rejected
    fresh_NV = noise.exponential(positions, p_NV.shape[-1], p_NV.device)
    tokens = noisy_argmax(residual_NV.log(), fresh_NV)
    tokens[:drafted] = torch.where(u_M * q_M < p_M, drawn_M, tokens[:drafted])
    return tokens
