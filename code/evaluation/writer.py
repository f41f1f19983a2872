"""Appending records so that nothing is lost and nothing stands twice: one write and fsync a question, one writer.

A killed run loses at most the question in flight; opening the file again drops what a kill left half-written and
says which questions are complete.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from evaluation.records import Record, read_records
from model.errors import UserError


class RecordWriter:
    """The single writer of one records file; a context manager. `done` holds the finished question ids."""

    def __init__(self, path: Path, manifest: dict[str, Any], generations: int) -> None:
        self.path = path
        self.notices: list[str] = []
        self.done: set[str] = set()
        self._manifest = manifest
        self._generations = generations
        self._file: Any = None

    def __enter__(self) -> "RecordWriter":
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
        self._file.write("".join(r.line() for r in records).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done.update(r.question_id for r in records)

    def _lock(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")  # noqa: SIM115 (closed on leaving this context manager)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; choose another folder with --answer-file") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing {self.path}; wait for it or use --answer-file") from None
        except OSError as error:
            raise UserError(f"cannot lock {self.path}: {error.strerror}; put it on a local disk with --answer-file") from None

    def _check_manifest(self) -> None:
        file = manifest_path(self.path)
        if not file.exists() and self.path.stat().st_size:
            raise UserError(f"{self.path} exists without its manifest {file.name}, so its settings are not known; use another"
                            f" --answer-file")
        if not file.exists() or self.path.stat().st_size == 0:
            write_atomically(file, json.dumps(self._manifest, indent=1, ensure_ascii=False) + "\n")
            return
        old = json.loads(file.read_text(encoding="utf-8"))
        differing = [f"{key}: {old['settings'].get(key)!r} then, {value!r} now"
                     for key, value in self._manifest["settings"].items() if old["settings"].get(key) != value]
        if differing:
            raise UserError(f"{self.path} was begun with other settings ({'; '.join(differing)}); use the same ones, "
                            f"another --model-id or --answer-file, or delete the file")

    def _recover(self) -> None:
        """Keep complete questions only; rewrite the file where something had to go."""
        records = read_records(self.path, self.notices)
        counts: dict[str, int] = {}
        for record in records:
            counts[record.question_id] = counts.get(record.question_id, 0) + record.final
        self.done = {q for q, n in counts.items() if n >= self._generations}
        whole = "".join(r.line() for r in records if r.question_id in self.done)
        if len(whole.encode()) != self.path.stat().st_size:
            write_atomically(self.path, whole)  # the old file stays until the new one is whole
            self._file.close()
            self._lock()


def manifest_path(records: Path) -> Path:
    """`X.jsonl` -> `X.manifest.json`."""
    return records.with_suffix(".manifest.json")


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
