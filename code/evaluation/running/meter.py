"""What a generation took beside time: peak memory, and energy where the GPU's driver tells."""

from __future__ import annotations

import functools
import resource
import sys
from typing import Any

import torch


@functools.cache
def _nvml_handle(uuid: str) -> Any:
    """NVML's handle of the GPU of this UUID; None where there is no NVML (nvidia-ml-py).

    By UUID, since CUDA_VISIBLE_DEVICES renumbers GPUs for PyTorch and not for NVML.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
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
        """Joules since the beginning, of the whole board; None where it is not known."""
        now = self._millijoules()
        if now is None or self._begun is None:
            return None
        return (now - self._begun) / 1000

    def _millijoules(self) -> int | None:
        if self._device.type != "cuda":
            return None
        handle = _nvml_handle(str(torch.cuda.get_device_properties(self._device).uuid))
        if handle is None:
            return None
        try:
            import pynvml

            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except Exception:  # older boards do not count energy
            return None
