"""What the GPU's driver tells through NVML (nvidia-ml-py): energy, clock, what holds it down.

Everything is None or empty where there is no NVML, no permission, or no such counter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

THROTTLE_REASONS = (
    "SwPowerCap",
    "HwSlowdown",
    "SyncBoost",
    "SwThermalSlowdown",
    "HwThermalSlowdown",
    "HwPowerBrakeSlowdown",
)
"""Names of NVML's reasons that say the clock is held down; idle and set clocks are none."""


@functools.cache
def _handle(uuid: str) -> Any:
    """NVML's handle of the GPU of this UUID; None where there is no NVML.

    By UUID, since CUDA_VISIBLE_DEVICES renumbers GPUs for PyTorch and not for NVML.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
    except Exception:  # no package, no driver, no permission: it is simply not known
        return None


def _ask(device: torch.device, question: Callable[[Any, Any], int]) -> int | None:
    """What `question(pynvml, handle)` yields for this device; None where it is not known."""
    if device.type != "cuda":
        return None
    handle = _handle(str(torch.cuda.get_device_properties(device).uuid))
    if handle is None:
        return None
    try:
        import pynvml

        return question(pynvml, handle)
    except Exception:  # older boards do not count it
        return None


def millijoules(device: torch.device) -> int | None:
    """Energy of the whole board since its driver was loaded."""
    return _ask(device, lambda nvml, handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def clock(device: torch.device) -> int | None:
    """MHz of the multiprocessors now."""
    return _ask(
        device, lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
    )


def throttle_reasons(device: torch.device) -> list[str]:
    """What holds the clock down now."""
    bits = _ask(device, lambda nvml, handle: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return named_reasons(bits) if bits else []


def named_reasons(bits: int) -> list[str]:
    """The reasons that are set in NVML's bit mask."""
    import pynvml

    reasons = []
    for name in THROTTLE_REASONS:
        # NVML names the older half of them otherwise
        for prefix in ("nvmlClocksThrottleReason", "nvmlClocksEventReason"):
            if bits & getattr(pynvml, prefix + name, 0):
                reasons.append(name)
                break
    return reasons
