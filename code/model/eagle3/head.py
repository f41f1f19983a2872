"""The EAGLE-3 head: one decoder layer over fused target features and token embeddings, with a
vocabulary of its own.

Pairing: the feature of token x_t goes with the embedding of x_{t+1}; the output predicts x_{t+2}
and is, un-normed, the next step's feature. Written from the paper and the public checkpoints'
parameter names; also used to train.

Shapes: n rows, F features (3 x target hidden), H hidden, N heads, K key/value heads, D head
dimension, V vocabulary, W draft vocabulary."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class HeadConfig:
    """Shapes and switches of a head, whatever dialect its checkpoint speaks."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    draft_vocab: int
    target_hidden: int
    feature_layers: tuple[int, ...] = ()
    eps: float = 1e-6
    rope_theta: float = 10_000.0
    trained_length: int = 2048
    own_embeddings: bool = False
    qk_norm: bool = False
    norm_before_residual: bool = False
    """The residual is the normed feature (speculators)."""
    norm_before_fc: bool = False
    """RMSNorm over all features before fusing them (speculators)."""
    fc_norm: bool = False
    """RMSNorm over each third of the features before fusing them (SpecForge)."""
    feed_normed: bool = False
    """The normed output is the next feature (speculators' `norm_output`)."""


class RMSNorm(nn.Module):
    """Variance in fp32, weight applied after casting back, as in Llama."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(
            x.dtype
        ) * self.weight


class Attention(nn.Module):
    def __init__(self, c: HeadConfig) -> None:
        super().__init__()
        self.q_proj = nn.Linear(2 * c.hidden, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(2 * c.hidden, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(2 * c.hidden, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.hidden, bias=False)
        if c.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(c.head_dim, c.eps), RMSNorm(c.head_dim, c.eps)


class MLP(nn.Module):
    def __init__(self, c: HeadConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden, c.intermediate, bias=False)
        self.up_proj = nn.Linear(c.hidden, c.intermediate, bias=False)
        self.down_proj = nn.Linear(c.intermediate, c.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MidLayer(nn.Module):
    def __init__(self, c: HeadConfig) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(c), MLP(c)
        self.hidden_norm = RMSNorm(c.hidden, c.eps)
        self.input_layernorm = RMSNorm(c.hidden, c.eps)
        self.post_attention_layernorm = RMSNorm(c.hidden, c.eps)


class Eagle3Head(nn.Module):
    """Parameters under the public checkpoints' names; `d2t` [W] are offsets from draft to target
    ids.
    """

    d2t: torch.Tensor

    def __init__(self, c: HeadConfig) -> None:
        super().__init__()
        self.config = c
        self.fc = nn.Linear(3 * c.target_hidden, c.hidden, bias=False)
        self.midlayer = MidLayer(c)
        self.norm = RMSNorm(c.hidden, c.eps)
        self.lm_head = nn.Linear(c.hidden, c.draft_vocab, bias=False)
        if c.own_embeddings:
            self.embed_tokens = nn.Embedding(c.vocab, c.hidden)
        if c.norm_before_fc:
            self.input_norm = RMSNorm(3 * c.target_hidden, c.eps)
        if c.fc_norm:
            self.fc_norm = nn.ModuleList(RMSNorm(c.target_hidden, c.eps) for _ in range(3))
        self.register_buffer("d2t", torch.zeros(c.draft_vocab, dtype=torch.long))

    def fuse(self, features_nF: torch.Tensor) -> torch.Tensor:
        """Target features to the head's own feature [n, H]."""
        if self.config.fc_norm:
            thirds = features_nF.chunk(3, dim=-1)
            features_nF = torch.cat([norm(x) for norm, x in zip(self.fc_norm, thirds)], dim=-1)
        if self.config.norm_before_fc:
            features_nF = self.input_norm(features_nF)
        return self.fc(features_nF)

    def project(
        self,
        feature_nH: torch.Tensor,
        embedding_nH: torch.Tensor,
        cos_nD: torch.Tensor,
        sin_nD: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(residual [..., n, H], q [..., n, N, D], k and v [..., n, K, D]), rotated to their
        positions.
        """
        layer, c = self.midlayer, self.config
        normed = layer.hidden_norm(feature_nH)
        residual = normed if c.norm_before_residual else feature_nH
        both = torch.cat([layer.input_layernorm(embedding_nH), normed], dim=-1)
        attention = layer.self_attn
        q, k, v = (
            p(both).unflatten(-1, (-1, c.head_dim))
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if c.qk_norm:
            q, k = attention.q_norm(q), attention.k_norm(k)
        cos, sin = cos_nD.unsqueeze(-2), sin_nD.unsqueeze(-2)
        return residual, rotate(q, cos, sin), rotate(k, cos, sin), v

    def finish(self, residual_nH: torch.Tensor, attended_nND: torch.Tensor) -> torch.Tensor:
        """The layer's output [..., n, H], the next feature before any norm."""
        layer = self.midlayer
        middle = residual_nH + layer.self_attn.o_proj(attended_nND.flatten(-2))
        return middle + layer.mlp(layer.post_attention_layernorm(middle))

    def logits(self, out_nH: torch.Tensor) -> torch.Tensor:
        """Over the draft vocabulary [..., n, W]."""
        return self.lm_head(self.norm(out_nH))

    def next_feature(self, out_nH: torch.Tensor) -> torch.Tensor:
        """What the following step takes as its feature."""
        return self.norm(out_nH) if self.config.feed_normed else out_nH

    def rope(self, positions_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [n, D], computed in fp32 for any length and then cast (fp16 angles lose whole
        turns).
        """
        c = self.config
        exponent = (
            torch.arange(0, c.head_dim, 2, device=positions_n.device, dtype=torch.float32)
            / c.head_dim
        )
        angle = positions_n.float()[:, None] * c.rope_theta**-exponent
        angle = torch.cat([angle, angle], dim=-1)
        dtype = self.fc.weight.dtype
        return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding with halves, as in Llama."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
