"""CUDA graphs of fused operations: every decoder layer is compiled whole, its linears merged.

What fuses is norms with the additions before them, rotary embeddings and the gate; queries, keys
and values are one matrix product, gate and up another. 45 launches a layer become 11: two norms,
four products, the rotary embeddings, two of attention, the gate, the last addition. One compilation
of seconds serves all layers. The angles of the rotary embeddings and the last norm, 14 launches of
a step, become 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from model.engine.backends.cuda_graph import CudaGraph
from model.engine.cache import KVCache
from model.engine.device.merged_linears import compile_merged, move_together
from model.engine.shape import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECOMPILE_LIMIT = 64
"""One code object serves every model of a class: a target, its draft model and new caches share the
limit."""
EDGES = ("rotary_emb", "norm")
"""Parts before and behind the layers, by the names that transformers' models share."""


def fuse(network: PreTrainedModel) -> None:
    """Have every decoder layer compiled, once for all of them, and what is before and behind."""
    config = torch._dynamo.config
    config.recompile_limit = max(RECOMPILE_LIMIT, config.recompile_limit)
    move_together(network)
    decoder = network.get_decoder()
    for layer in decoder.layers:
        layer.compile(backend=compile_merged)
    for name in EDGES:
        if part := getattr(decoder, name, None):
            part.compile(backend=compile_merged)


class FusedCudaGraph(CudaGraph):
    rank = 3
    fallback = "cuda_graph"
    fused = True

    def __init__(self, network: PreTrainedModel, cache: KVCache, shape: Shape) -> None:
        super().__init__(network, cache, shape)
        fuse(network)


BACKEND = FusedCudaGraph
