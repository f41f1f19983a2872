"""Linear layers over repacked weights: a few rows of a model that is too large for a CPU's caches.

For one row PyTorch reads the weights at the memory's speed. For 2 to 12 rows of fp32 it takes 1.7
to 2.5 times as long, though it reads the same bytes: its matrix product wants other blocks.
oneDNN's own layout is read once for all rows: 1.05 times as long for 2 rows, 1.7 for 8 (135 M
parameters on one core; a model of 5 M parameters that stays in the caches is slower with it). So
every size of weight is tried, and those that gain are kept twice, where there is memory for it.

`recording` replaces the layers while a graph is recorded; the model itself stays as it is.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

TRIED_ROWS = 4
PASSES = 3
GAIN = 0.9
"""Of the plain time: less gain is not worth the memory."""
SHARE = 0.25
"""Of the memory that is free."""


def linear_rows(x: torch.Tensor, weight: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    """x [1, T, I] times weight [O, I]: one row and many by the plain weight, few by the packed."""
    rows = x.size(0) * x.size(1)
    if rows == 1 or rows > 24:  # above, the gain is gone
        return torch.nn.functional.linear(x, weight)
    flat = x.reshape(rows, x.size(2))
    out = torch.ops.mkldnn._linear_pointwise(flat, packed, None, "none", [], "")
    return out.reshape(x.size(0), x.size(1), weight.size(0))


class PackedLinears(torch.nn.Module):
    """Repacked weights by the weight they copy. A module, so that recorded graphs can hold them."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._names: dict[int, str] = {}
        for number, weight in enumerate(weights):
            name = f"packed_{number}"
            self.register_buffer(name, pack(weight), persistent=False)
            self._names[id(weight)] = name

    @classmethod
    def of(cls, network: torch.nn.Module) -> PackedLinears | None:
        """Of the layers that gain; None where none does, or memory is short."""
        if not torch.backends.mkldnn.is_available():
            return None
        groups: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
        seen: set[int] = set()
        for module in network.modules():
            if type(module) is torch.nn.Linear and module.bias is None:
                weight = module.weight
                if weight.dtype == torch.float32 and id(weight) not in seen:
                    seen.add(id(weight))
                    groups[weight.shape].append(weight)
        gaining = [weight for group in groups.values() if gains(group) for weight in group]
        size = sum(weight.numel() * weight.element_size() for weight in gaining)
        return cls(gaining) if gaining and size < SHARE * free_memory() else None

    def recording(self) -> TorchFunctionMode:
        """While it is entered, linear layers of these weights are recorded as `linear_rows`."""
        return _Recording(self)

    def packed(self, weight: torch.Tensor) -> torch.Tensor | None:
        """The repacked copy of a weight, None where there is none."""
        name = self._names.get(id(weight))
        return None if name is None else self.get_buffer(name)


class _Recording(TorchFunctionMode):
    def __init__(self, linears: PackedLinears) -> None:
        super().__init__()
        self._linears = linears
        self._script = torch.jit.script(linear_rows)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.linear and args[0].dim() == 3:
            packed = self._linears.packed(args[1])
            if packed is not None:
                return self._script(args[0], args[1], packed)
        return func(*args, **(kwargs or {}))


def pack(weight: torch.Tensor) -> torch.Tensor:
    """The weight [O, I] in the layout that oneDNN likes for a few rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 2 * TRIED_ROWS)


def gains(weights: Sequence[torch.Tensor]) -> bool:
    """Are layers of these weights, all of one size, faster packed? Tried one after another, as in a
    forward, so that each is read from where it lies."""
    x = torch.ones(TRIED_ROWS, weights[0].shape[1])
    try:
        packed = [pack(weight) for weight in weights]
        plain_time = _best(lambda: [torch.nn.functional.linear(x, w) for w in weights])
        linear = torch.ops.mkldnn._linear_pointwise
        packed_time = _best(lambda: [linear(x, p, None, "none", [], "") for p in packed])
    except (RuntimeError, AttributeError):  # a build of PyTorch without these operations
        return False
    return packed_time < GAIN * plain_time


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some passes."""
    times = []
    for _ in range(PASSES):
        begun = perf_counter()
        work()
        times.append(perf_counter() - begun)
    return min(times)


def free_memory() -> int:
    """Bytes; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
