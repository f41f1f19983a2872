"""Recording device work as a CUDA graph, and the buffer through which a step's inputs reach it."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from model.errors import UserError, first_line

T = TypeVar("T")
WARM_UP_RUNS = 2
"""Before a capture: they compile kernels and create handles, which a capture must not."""


class StepBuffer:
    """One int64 buffer on the host (pinned), its copy on the device, and named views of both."""

    def __init__(self, sizes: dict[str, int], device: torch.device) -> None:
        total = sum(sizes.values())
        on_gpu = device.type == "cuda"
        self._host = torch.zeros(total, dtype=torch.int64, pin_memory=on_gpu)
        self._device = torch.zeros(total, dtype=torch.int64, device=device)
        self._sent = torch.cuda.Event() if on_gpu else None
        self.host = {}
        """numpy views, by name."""
        self.device = {}
        """Tensor views on the device, by name."""
        ends = itertools.accumulate(sizes.values(), initial=0)
        for name, (begin, end) in zip(sizes, itertools.pairwise(ends), strict=True):
            self.host[name] = self._host[begin:end].numpy()
            self.device[name] = self._device[begin:end]

    def wait(self) -> None:
        """Until the host buffer may be written again."""
        if self._sent:
            self._sent.synchronize()

    def send(self) -> None:
        """One asynchronous copy to the device."""
        self._device.copy_(self._host, non_blocking=True)
        if self._sent:
            self._sent.record()


@functools.cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures of a device: each keeps a workspace of the matrix library."""
    return torch.cuda.Stream(device)


def capture(
    body: Callable[[], T], device: torch.device, pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, T]:
    """A CUDA graph of `body()` and what it returned; its memory is the pool's, or a new one's.

    Raises what `body` raised; the current stream is then what it was before. Raises UserError where
    the GPU answers no longer: nothing that follows would run on it either.
    """
    before, stream = torch.cuda.current_stream(device), capture_stream(device)
    graph = torch.cuda.CUDAGraph()
    pool = pool or torch.cuda.graph_pool_handle()
    stream.wait_stream(before)
    was_collecting = gc.isenabled()
    gc.disable()  # memory freed by a collection would end the capture
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                body()
        before.wait_stream(stream)
        forget_workspaces()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            result = body()
    except Exception as error:
        cause = first_cause(error)
        _come_back(before, device, cause)
        _leave_pool(device, pool)
        raise cause from None  # ending a broken capture raises an error of its own
    finally:
        forget_workspaces()
        if was_collecting:
            gc.enable()
    return graph, result


class Captures:
    """Graphs of one device that share their memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def capture(self, body: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        """As the function of this name does. Behind one that failed memory is not shared: PyTorch
        2.11 takes the pool for one that is still recorded to."""
        try:
            made = capture(body, self._device, self._pool)
        except Exception:
            self._pool = None
            raise
        self._pool = self._pool or made[0].pool()
        return made


def forget_workspaces() -> None:
    """Have the matrix library ask for memory anew: a graph's is then from the graph's own pool.

    A workspace that a stream has is used by all graphs captured on it, and freed with the first of
    them that goes (PyTorch 2.12 and 2.13): the others would write into memory of somebody else.
    """
    if clear := getattr(torch._C, "_cuda_clearCublasWorkspaces", None):
        clear()


def first_cause(error: Exception) -> Exception:
    """What was raised first: ending a broken capture raises errors of its own, one in another."""
    while isinstance(error.__context__, Exception):
        error = error.__context__
    return error


def _leave_pool(device: torch.device, pool: Any) -> None:
    """Have memory allocated outside the pool again after a capture failed.

    PyTorch 2.11 throws before it does so itself: every later capture, and freeing memory, would run
    into an internal check. Where it did, ending a second time is refused, and nothing is released.
    """
    from torch.cuda.memory import _cuda_endAllocateToPool, _cuda_releasePool

    index = device.index or 0
    with contextlib.suppress(Exception):
        _cuda_endAllocateToPool(index, pool)
        _cuda_releasePool(index, pool)


def _come_back(stream: torch.cuda.Stream, device: torch.device, cause: BaseException) -> None:
    """To the stream that was in use before a capture failed."""
    try:
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize(device)
    except Exception:  # an illegal access, say: every later call raises it again
        raise UserError(
            f"{device} answers no longer ({type(cause).__name__}: {first_line(cause)}); the same"
            " command goes on, and --engine eager records nothing"
        ) from None
