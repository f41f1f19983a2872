"""Measuring the engine on a device: what verifying n nodes costs, and the bytes a step must move.

A vanilla step is bound by memory bandwidth: it reads the weights and the cached keys and values
once. Their bytes over the bandwidth that a plain copy reaches is the least time a step can take
(the roofline of Williams et al. 2009).
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from statistics import median
from time import perf_counter

import torch

from model.contract import Draft, Needs, Request
from model.engine.model import Model
from model.engine.sequence import Sequence
from model.engine.verify import verify

WARM_UP_STEPS = 3


def verify_seconds(
    model: Model, nodes: int, context: int, repeats: int, together: int = 1
) -> float:
    """Median seconds of verifying a chain of `nodes` behind `context` cached tokens, of so many
    texts together.
    """
    times = []
    for _ in range(repeats + WARM_UP_STEPS):
        times.append(step_seconds(model, nodes, context, together=together))
    return median(times[WARM_UP_STEPS:])


def curve_seconds(
    model: Model, nodes: Items[int], context: int, repeats: int, temperature: float
) -> list[float]:
    """`verify_seconds` of several numbers of nodes, a step of each in turn.

    A machine that gets slower meanwhile does so for all of them.
    """
    times: list[list[float]] = [[] for _ in nodes]
    for _ in range(repeats + WARM_UP_STEPS):
        for number, n in enumerate(nodes):
            times[number].append(step_seconds(model, n, context, temperature))
    return [median(of_n[WARM_UP_STEPS:]) for of_n in times]


def step_seconds(
    model: Model, nodes: int, context: int, temperature: float = 0.0, together: int = 1
) -> float:
    """Seconds of verifying a chain of `nodes` behind `context` cached tokens, of so many texts.

    Overwrites the rows behind the context: no text may be under way.
    """
    draft = Draft.chain(1, [2 + i % 7 for i in range(nodes - 1)], "measure")
    drafts = []
    for slot in range(together):
        request = Request([1] * context, nodes + 1, temperature, sample=slot)
        sequence = Sequence(request, slot, cached=context)
        sequence.emission.ids.append(1)
        drafts.append((sequence, draft))
    begun = perf_counter()
    verified = verify(model, drafts, Needs(max_nodes=nodes))
    return verified.read_at - begun


def copy_bandwidth(device: torch.device, copies: int = 20) -> float:
    """Bytes a second of copying on the device, read plus written.

    1 GB a copy on a GPU, by its own clock; 128 MB on a CPU.
    """
    on_gpu = device.type == "cuda"
    elements = 1 << (29 if on_gpu else 26)
    source = torch.empty(elements, dtype=torch.float16, device=device).normal_()
    target = torch.empty_like(source)
    target.copy_(source)
    if on_gpu:
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


def step_bytes(model: Model, context: int) -> int:
    """Bytes a vanilla step must read: the weights and `context` rows of the cache.

    An input embedding that is not the output layer too is not counted: a step reads one row of it.
    """
    embedding = model.network.get_input_embeddings().weight
    output_layer = model.network.get_output_embeddings().weight
    weights = sum(w.numel() * w.element_size() for w in model.network.parameters())
    if embedding.data_ptr() != output_layer.data_ptr():
        weights -= embedding.numel() * embedding.element_size()
    cache = model.cache
    return weights + cache.bytes // cache.slots * context // cache.positions
