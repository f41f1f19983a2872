"""Did another run use the same GPU or cores at the same time? Its timings then say nothing.

Every run holds a lock in a folder of the device; whoever finds another lock held there while
answering a question marks that question's records as shared. A lock ends with its process, however
that ends.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import tempfile
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from evaluation.records.schema import Record
from model.errors import UserError


def device_name(device: torch.device) -> str:
    """One name for a physical device, whatever number a process sees it under."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).uuid)
    return device.type


def device_folder(device: torch.device) -> Path:
    """Where this user's runs on the device hold their locks."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"spectts-bench-locks-{user}" / device_name(device)


def own_folder(folder: Path) -> Path:
    """Make the folder, for this user alone.

    Raises UserError where it, or the one it lies in, is a link, no folder or somebody else's: the
    temporary directory is everybody's, and what others put there is not written to.
    """
    for part in (folder.parent, folder):
        try:
            part.mkdir(mode=0o700, exist_ok=True)
            found = part.lstat()
        except OSError as error:
            raise UserError(_blocked(part, error.strerror or str(error))) from None
        if not stat.S_ISDIR(found.st_mode):
            raise UserError(_blocked(part, "it is a link or no folder"))
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            raise UserError(_blocked(part, "it belongs to another user"))
    return folder


def _blocked(folder: Path, reason: str | None) -> str:
    return (
        f"cannot hold this run's lock in {folder}: {reason}; remove it, or set TMPDIR to a folder"
        " of your own"
    )


class Sharing:
    """Registers a run on a device; `group` is one number for all workers of a run.

    `is_oversubscribed`: the run's own workers share a GPU or cores, so every record is marked.
    """

    def __init__(
        self, device: torch.device, is_oversubscribed: bool = False, group: int = 0
    ) -> None:
        self._is_oversubscribed = is_oversubscribed
        self._group = group or os.getpid()
        self._folder = own_folder(device_folder(device))
        self._lock = FileLock(self._folder / f"{self._group}-{os.getpid()}.lock", mode=0o600)
        try:
            self._lock.acquire()
        except OSError as error:
            raise UserError(_blocked(self._folder, error.strerror)) from None

    def mark(self, records: list[Record]) -> list[Record]:
        """The records, marked where another run lives on the device."""
        if not self._is_oversubscribed and not self._has_others():
            return records
        return [dataclasses.replace(record, shared=True) for record in records]

    def close(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _has_others(self) -> bool:
        """Is a lock of another run held? Locks that nobody holds any more are removed."""
        has_others = False
        for file in self._folder.glob("*.lock"):
            if file.name.startswith(f"{self._group}-"):
                continue
            other = FileLock(file, mode=0o600)
            try:
                other.acquire(blocking=False)
            except Timeout:
                has_others = True
            except OSError:  # a foreign file
                continue
            else:
                other.release()
                file.unlink(missing_ok=True)
        return has_others
