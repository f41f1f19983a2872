"""Appending records so that nothing is lost and nothing stands twice.

One write and fsync a question, one writer a file. A killed run loses at most the question in
flight; opening the file again drops what a kill left half-written and says which questions are
complete.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from pathlib import Path
from typing import IO

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
        """Write one question's records as one block."""
        self._file.write("".join(record.line() for record in records).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done.update(record.question_id for record in records)

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
        settled = Counter(record.question_id for record in records if record.is_final)
        self.done = {q for q, count in settled.items() if count >= self._generations}
        lines = [record.line() for record in records if record.question_id in self.done]
        whole = "".join(lines)
        if len(whole.encode()) != self.path.stat().st_size:
            write_atomically(self.path, whole)  # the old file stays until the new one is whole
            self._file.close()
            self._lock()


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one move, so that no reader and no kill ever sees half of it."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
