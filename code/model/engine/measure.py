"""Measuring the engine on a device: what verifying n nodes costs, and the bytes a step must move.

A vanilla step is bound by memory bandwidth: it reads the weights and the cached keys and values once. Their bytes over
the bandwidth that a plain copy reaches is the least time a step can take (the roofline of Williams et al. 2009).
"""

from statistics import median
from time import perf_counter

import torch

from model.draft import Draft, Needs, Request
from model.engine.decode import Sequence
from model.engine.target import Target
from model.engine.verify import verify


def verify_seconds(target: Target, nodes: int, context: int, repeats: int) -> float:
    """Median seconds of verifying a chain of `nodes` behind `context` cached tokens (whatever those hold)."""
    request = Request([1] * context, 10 * repeats + nodes)
    times = []
    for i in range(repeats + 3):
        sequence = Sequence(request, cached=context)
        sequence.emission.ids.append(1)
        draft = Draft.chain(1, [2 + (j + i) % 7 for j in range(nodes - 1)], "measure")
        begun = perf_counter()
        _, read = verify(target, [(sequence, draft)], Needs(max_nodes=nodes))
        times.append(read - begun)
    return median(times[3:])


def copy_bandwidth(device: torch.device, copies: int = 20) -> float:
    """Bytes a second of copying on the device, read plus written: 1 GB on a GPU by its own clock, less on a CPU."""
    source = torch.empty(1 << (29 if device.type == "cuda" else 26), dtype=torch.float16, device=device).normal_()
    target = torch.empty_like(source)
    target.copy_(source)
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(copies):
            target.copy_(source)
        end.record()
        torch.cuda.synchronize(device)
        seconds = begin.elapsed_time(end) / 1e3
    else:
        begun = perf_counter()
        for _ in range(copies):
            target.copy_(source)
        seconds = perf_counter() - begun
    return 2 * copies * source.numel() * source.element_size() / seconds


def step_bytes(target: Target, context: int) -> int:
    """Bytes a vanilla step must read: the weights (an input embedding that is not the output one aside) and the cache."""
    embedding = target.model.get_input_embeddings().weight
    tied = embedding.data_ptr() == target.model.get_output_embeddings().weight.data_ptr()
    weights = sum(p.numel() * p.element_size() for p in target.model.parameters())
    weights -= 0 if tied else embedding.numel() * embedding.element_size()
    return weights + target.cache.bytes // target.cache.slots * context // target.cache.positions
