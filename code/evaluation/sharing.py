"""Did another run use the same GPU or cores at the same time? Then its timings say nothing, and records are marked.

Every run leaves a file named by its process in a folder of the device; whoever finds another living run there while
answering a question marks that question's records as shared.
"""

import dataclasses
import os
import tempfile
from pathlib import Path

import torch

from evaluation.records import Record


def device_name(device: torch.device) -> str:
    """One name for a physical device, whatever number a process sees it under."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).uuid)
    return device.type


class Sharing:
    """Registers a run's process group on a device; `group` is one number for all workers of a run."""

    def __init__(self, device: torch.device, always: bool = False, group: int = 0) -> None:
        self._always = always
        self._group = group or os.getpid()
        user = os.getuid() if hasattr(os, "getuid") else 0
        self._folder = Path(tempfile.gettempdir()) / f"spectts-bench-{user}" / device_name(device)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mine = self._folder / f"{os.getpid()}-{self._group}"
        self._mine.touch()

    def mark(self, records: list[Record]) -> list[Record]:
        """The records, marked where another run lives on the device."""
        shared = self._always or self._others()
        return [dataclasses.replace(r, shared=True) for r in records] if shared else records

    def close(self) -> None:
        self._mine.unlink(missing_ok=True)

    def _others(self) -> bool:
        found = False
        for file in self._folder.iterdir():
            pid, _, group = file.name.partition("-")
            if int(group) == self._group:
                continue
            if _alive(int(pid)):
                found = True
            else:
                file.unlink(missing_ok=True)
        return found


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
