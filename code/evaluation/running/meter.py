"""What a generation took beside wall time: memory, energy, processor time, and what others took.

On a machine that other work runs on, wall time alone says little. Linux tells how long a thread
stood ready and had no core, and how many cores others kept busy.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from evaluation.running import nvml

THREAD_SCHEDULE = Path("/proc/thread-self/schedstat")
SYSTEM_TIMES = Path("/proc/stat")
IDLE_COLUMNS = (3, 4)
"""idle and iowait, of user nice system idle iowait irq softirq steal."""
COUNTED_COLUMNS = 8
"""The guests' times that follow are in user and nice already."""


@dataclass(frozen=True)
class Usage:
    """What a generation used; None where it is not known."""

    peak_memory: int
    """Bytes: of the accelerator since the beginning; on a CPU the process's peak so far."""
    energy: float | None
    """Joules of the whole board."""
    cpu_time: float
    """Processor seconds of the process."""
    waited_time: float | None
    """Seconds in which it could have run and had no core."""
    other_load: float | None
    """Cores kept busy by other processes, on average."""
    gpu_clock: int | None
    gpu_throttle: list[str]


def waited_seconds() -> float | None:
    """How long this thread has stood ready without a core so far; None where that is not told.

    It says how long the work was held up only where one thread does all of it.
    """
    if torch.get_num_threads() > 1:
        return None
    try:
        return int(THREAD_SCHEDULE.read_text().split()[1]) / 1e9
    except (OSError, LookupError, ValueError):
        return None


def busy_seconds() -> float | None:
    """Core-seconds this machine's cores were busy since it started, or taken by its host."""
    try:
        words = SYSTEM_TIMES.read_text().split("\n", 1)[0].split()[1 : COUNTED_COLUMNS + 1]
        ticks = [int(word) for word in words]
        busy = sum(ticks) - sum(ticks[column] for column in IDLE_COLUMNS)
        return busy / os.sysconf("SC_CLK_TCK")
    except (OSError, LookupError, ValueError):
        return None


def share_of(usage: Usage, generations: int) -> Usage:
    """One generation's share of what a group of so many used together."""

    def shared(amount: float | None) -> float | None:
        return None if amount is None else amount / generations

    return replace(
        usage,
        energy=shared(usage.energy),
        cpu_time=usage.cpu_time / generations,
        waited_time=shared(usage.waited_time),
    )


class Meter:
    """Begins when made; asked at the end of the generation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._millijoules = nvml.millijoules(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._busy = busy_seconds()
        self._waited = waited_seconds()
        self._cpu = time.process_time()
        self._begun = time.perf_counter()

    def usage(self) -> Usage:
        """What was used since the beginning."""
        wall = time.perf_counter() - self._begun
        cpu = time.process_time() - self._cpu
        waited = waited_seconds() if self._device.type == "cpu" else None
        return Usage(
            peak_memory=self._peak_memory(),
            energy=self._energy(),
            cpu_time=cpu,
            waited_time=None if waited is None or self._waited is None else waited - self._waited,
            other_load=self._other_load(wall, cpu),
            gpu_clock=nvml.clock(self._device),
            gpu_throttle=nvml.throttle_reasons(self._device),
        )

    def _other_load(self, wall: float, cpu: float) -> float | None:
        busy = busy_seconds()
        if busy is None or self._busy is None or wall <= 0:
            return None
        return max(0.0, (busy - self._busy - cpu) / wall)

    def _peak_memory(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def _energy(self) -> float | None:
        now = nvml.millijoules(self._device)
        if now is None or self._millijoules is None:
            return None
        return (now - self._millijoules) / 1000
