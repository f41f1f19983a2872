"""Work that a CUDA graph does only where a flag on the device says so: the host need not know.

An IF node of CUDA 12.4 and newer, captured through PyTorch's `CUDAGraph` where it has them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def can_branch(device: torch.device) -> bool:
    """Can graphs of this PyTorch hold such work? On a CPU, where nothing is captured, always."""
    return device.type != "cuda" or hasattr(torch.cuda.CUDAGraph, "begin_capture_to_if_node")


def run_if(flag: torch.Tensor, part: Callable[[], None]) -> None:
    """Run `part` where `flag` (bool, no dimension) is set by then.

    What `part` computes must be written into tensors made outside of it. Outside of a capture a GPU
    runs it whatever the flag says: so a warm-up compiles all there is.
    """
    if not flag.is_cuda:
        if flag.item():
            part()
        return
    if not torch.cuda.is_current_stream_capturing():
        part()
        return
    graph = torch.cuda.CUDAGraph.get_currently_capturing_graph()
    graph.begin_capture_to_if_node(flag)
    try:
        part()
    finally:
        graph.end_capture_to_conditional_node()
