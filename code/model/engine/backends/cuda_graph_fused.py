"""CUDA graphs of fused operations: the parts of every decoder layer are compiled first.

Parts, not layers: hooks on layers stay outside, and one compilation of seconds serves them all.
What fuses is the norms, the rotary embedding and the gate: 45 launches a layer become about 16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from model.engine.backends.cuda_graph import CudaGraph
from model.engine.cache import KVCache
from model.engine.shape import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECOMPILE_LIMIT = 64
"""One code object serves every model of a class: a target, its draft model and new caches share the
limit."""


def fuse(network: PreTrainedModel) -> None:
    """Have the parts of every decoder layer compiled, each part once for all layers."""
    config = torch._dynamo.config
    config.recompile_limit = max(RECOMPILE_LIMIT, config.recompile_limit)
    for layer in network.get_decoder().layers:
        for part in layer.children():
            part.compile()


class FusedCudaGraph(CudaGraph):
    rank = 3
    fallback = "cuda_graph"
    fused = True

    def __init__(self, network: PreTrainedModel, cache: KVCache, shape: Shape) -> None:
        super().__init__(network, cache, shape)
        fuse(network)


BACKEND = FusedCudaGraph
