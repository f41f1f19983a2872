"""Appending records so that nothing is lost and nothing stands twice.

One write and fsync a question, one writer a file. A killed run loses at most the question in
flight; opening the file again drops what a kill left half-written and says which questions are
complete. A file that somebody else moves, cuts or writes to meanwhile is noticed before the next
question is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import defaultdict
from pathlib import Path
from typing import IO, NoReturn

from evaluation.records.manifest import Manifest, manifest_path, read_manifest
from evaluation.records.reading import read_records
from evaluation.records.schema import Record
from model.errors import UserError


class RecordWriter:
    """The single writer of one records file; a context manager."""

    def __init__(self, path: Path, manifest: Manifest, generations: int) -> None:
        """`generations` is how many records a question yields.

        Entering raises UserError where the file cannot be written, another process writes it, or
        it was begun with other settings.
        """
        self.path = path
        self.notices: list[str] = []
        self.done: set[str] = set()
        """Ids of the questions that are complete."""
        self.failed: dict[str, str] = {}
        """Why a generation of a complete question failed, by question."""
        self._size = 0
        """Bytes of the file as this writer left it."""
        self._manifest = manifest
        self._generations = generations
        self._file: IO[bytes]

    def __enter__(self) -> RecordWriter:
        self._lock()
        try:
            self._check_manifest()
            self._recover()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, records: list[Record]) -> None:
        """Write one question's records as one block.

        Raises UserError where the file was changed by others, or the disk is full; what was
        written before stays.
        """
        self._check_untouched()
        block = "".join(record.line() for record in records).encode()
        try:
            self._file.write(block)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._take_back(error)
        self._size += len(block)
        self._settle(records)

    def _settle(self, records: list[Record]) -> None:
        """These questions are complete."""
        self.done.update(record.question_id for record in records)
        for record in records:
            if record.failed:
                self.failed.setdefault(record.question_id, record.error)

    def _check_untouched(self) -> None:
        """Is the file at this path still the one that is open, and as this writer left it?"""
        opened = os.fstat(self._file.fileno())
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            found = None
        remedy = "put it back, or run the same command again to begin what is missing anew"
        if found is None or (found.st_ino, found.st_dev) != (opened.st_ino, opened.st_dev):
            what = "was deleted or moved" if found is None else "was replaced by another file"
            raise UserError(f"{self.path} {what} while the run was writing it; {remedy}")
        if opened.st_size != self._size:
            raise UserError(
                f"{self.path} has {opened.st_size} bytes, {self._size} were written: something"
                f" else cut it or wrote to it while the run was going on; {remedy}"
            )

    def _take_back(self, error: OSError) -> NoReturn:
        """Leave no half-written question behind."""
        with contextlib.suppress(OSError):
            self._file.close()  # what is still in its buffer is written once more, and in vain
        with contextlib.suppress(OSError):
            os.truncate(self.path, self._size)
        raise UserError(
            f"cannot write {self.path}: {error.strerror}; finished questions are saved, the same"
            " command goes on"
        ) from None

    def _lock(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")  # noqa: SIM115 (closed on leaving this manager)
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror};"
                " choose another folder with --answer-file"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing {self.path}; wait for it or use --answer-file"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot lock {self.path}: {error.strerror};"
                " put it on a local disk with --answer-file"
            ) from None

    def _check_manifest(self) -> None:
        """A new file gets the manifest; one that was begun must have equal settings."""
        file = manifest_path(self.path)
        has_records = self.path.stat().st_size > 0
        if not has_records:
            write_atomically(file, self._manifest.text())
            return
        if not file.exists():
            raise UserError(
                f"{self.path} exists without its manifest {file.name}, so its settings are not"
                " known; use another --answer-file"
            )
        begun = read_manifest(self.path)
        differing = []
        for name in begun.differing(self._manifest):
            then, now = begun.settings.get(name), self._manifest.settings[name]
            differing.append(f"{name}: {then!r} then, {now!r} now")
        if differing:
            raise UserError(
                f"{self.path} was begun with other settings ({'; '.join(differing)}); use the same"
                " ones, another --model-id or --answer-file, or delete the file"
            )

    def _recover(self) -> None:
        """Keep complete questions only; rewrite the file where something had to go."""
        records = read_records(self.path, self.notices)
        settled: dict[str, set[tuple]] = defaultdict(set)
        for record in records:
            if record.is_final:
                settled[record.question_id].add(record.key)
        complete = {q for q, keys in settled.items() if len(keys) >= self._generations}
        seen: set[tuple] = set()
        kept = []
        for record in records:
            is_new = record.key not in seen
            if record.question_id in complete and record.is_final and is_new:
                kept.append(record)
                seen.add(record.key)
        if repeated := sum(record.question_id in complete for record in records) - len(kept):
            self.notices.append(f"{self.path}: {repeated} generation(s) stood there twice")
        self._settle(kept)
        whole = "".join(record.line() for record in kept).encode()
        if whole != self.path.read_bytes():
            # the old file stays until the new one is whole
            write_atomically(self.path, whole.decode())
            self._file.close()
            self._lock()
        self._size = len(whole)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one move, so that no reader and no kill ever sees half of it.

    A link stays one: the file it leads to is replaced. Raises UserError where it cannot be written.
    """
    try:
        path = path.resolve() if path.is_symlink() else path
        part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', error)}") from None
