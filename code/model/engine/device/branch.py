"""Work that a CUDA graph does only where a flag on the device says so: the host need not know.

An IF node of CUDA 12.4 and newer, captured through PyTorch's `CUDAGraph` where it has them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch

FROM_VERSION = (2, 13)
"""Of PyTorch: 2.12 takes the stream of each part from 32 that it shares out, the capture's among
them, and ends with an error after so many."""


def can_branch(device: torch.device) -> bool:
    """Can graphs of this PyTorch hold such work? On a CPU, where nothing is captured, always."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return device.type != "cuda" or version >= FROM_VERSION


def run_if(flag: torch.Tensor, part: Callable[[], None]) -> None:
    """Run `part` where `flag` (bool, no dimension) is set by then.

    What `part` computes must be written into tensors made outside of it. Outside of a capture a GPU
    runs it whatever the flag says: so a warm-up compiles all there is. What `part` raises is raised
    on, on the stream that is captured.
    """
    if not flag.is_cuda:
        if flag.item():
            part()
        return
    if not torch.cuda.is_current_stream_capturing():
        part()
        return
    captured = torch.cuda.current_stream(flag.device)
    graph = torch.cuda.CUDAGraph.get_currently_capturing_graph()
    graph.begin_capture_to_if_node(flag)
    try:
        part()
    except BaseException:
        with contextlib.suppress(Exception):  # it ends with an error of its own, and elsewhere
            graph.end_capture_to_conditional_node()
        torch.cuda.set_stream(captured)
        raise
    graph.end_capture_to_conditional_node()
