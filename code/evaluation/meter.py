"""What a generation took beside time: peak memory, and energy where the GPU's driver tells."""

import functools
import resource
import sys
from typing import Any

import torch


@functools.cache
def _nvml(index: int) -> Any:
    """NVML's handle of a GPU, or None where there is no NVML (package nvidia-ml-py)."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    except Exception:  # no package, no driver, no permission: energy is simply not known
        return None


class Meter:
    """Begins when made; asked at the end of the generation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begun = self._millijoules()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peak_memory(self) -> int:
        """Bytes: of the accelerator since the beginning; on a CPU the process's peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def energy(self) -> float | None:
        """Joules since the beginning, of the whole board."""
        now = self._millijoules()
        return None if now is None or self._begun is None else (now - self._begun) / 1000

    def _millijoules(self) -> int | None:
        if self._device.type != "cuda":
            return None
        handle = _nvml(self._device.index or 0)
        try:
            import pynvml

            return None if handle is None else pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except Exception:  # older boards do not count energy
            return None
