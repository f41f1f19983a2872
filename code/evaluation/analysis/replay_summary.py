"""The summary of a replay, `replay.json` beside its records: all that tables and figures need."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from evaluation.analysis.bounds import Bounds
from evaluation.analysis.replays import MethodTally, Steps
from evaluation.records.manifest import manifest_path, read_manifest
from evaluation.records.reading import json_lines
from evaluation.records.schema import Record, parse_record
from evaluation.records.writer import write_atomically
from model.errors import UserError

FILE = "replay.json"
SCHEMA = 1


@dataclass
class MethodSummary:
    """One method, or in a sweep one setting of it."""

    scope: str
    nodes: int
    """The budget of a draft, root included."""
    tally: MethodTally = field(default_factory=MethodTally)


@dataclass
class ReplaySummary:
    """What was replayed, and what came of it."""

    title: str
    source: str
    """The files of the traces."""
    paradigm: str
    model: str
    """The fingerprint of the target that wrote them, or empty."""
    temperature: float
    interleave: int
    methods: dict[str, MethodSummary]
    questions: int = 0
    generations: int = 0
    tokens: int = 0
    bounds: dict[str, Bounds] = field(default_factory=dict)
    """By scope."""
    combination: dict[str, Steps] = field(default_factory=dict)
    """By question: of the best of all methods at every step."""

    def bound(self, scope: str) -> Bounds | None:
        """Of a memory of this scope; a run's is not bounded by its questions' own texts."""
        return self.bounds.get(scope)

    def as_json(self) -> dict[str, Any]:
        methods = {}
        for label, method in self.methods.items():
            methods[label] = {
                "scope": method.scope,
                "nodes": method.nodes,
                **method.tally.as_json(),
            }
        return {
            "schema": SCHEMA,
            "title": self.title,
            "source": self.source,
            "paradigm": self.paradigm,
            "model": self.model,
            "temperature": self.temperature,
            "interleave": self.interleave,
            "questions": self.questions,
            "generations": self.generations,
            "tokens": self.tokens,
            "methods": methods,
            "bounds": {scope: bounds.as_json() for scope, bounds in self.bounds.items()},
            "combination": {q: steps.as_json() for q, steps in self.combination.items()},
        }

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> ReplaySummary:
        """Raises LookupError, TypeError or ValueError where `data` is no summary."""
        if data["schema"] != SCHEMA:
            raise ValueError("another schema")
        methods = {}
        for label, method in data["methods"].items():
            tally = MethodTally.of_json(method)
            methods[label] = MethodSummary(method["scope"], method["nodes"], tally)
        return cls(
            title=data["title"],
            source=data["source"],
            paradigm=data["paradigm"],
            model=data["model"],
            temperature=data["temperature"],
            interleave=data["interleave"],
            methods=methods,
            questions=data["questions"],
            generations=data["generations"],
            tokens=data["tokens"],
            bounds={scope: Bounds.of_json(b) for scope, b in data["bounds"].items()},
            combination={q: Steps.of_json(steps) for q, steps in data["combination"].items()},
        )

    def write(self, folder: Path) -> None:
        write_atomically(folder / FILE, json.dumps(self.as_json()) + "\n")


def read_summary(file: Path) -> ReplaySummary:
    """Raises UserError where it cannot be read."""
    try:
        return ReplaySummary.of_json(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{file} is no summary of a replay; replay again") from None


@dataclass(frozen=True)
class FoundReplay:
    """A replay's summary, and the folder its records are in."""

    summary: ReplaySummary
    folder: Path

    @property
    def tokenizer_folder(self) -> str:
        for path in self._files():
            return read_manifest(path).model_folder
        return ""

    def first_records(self, most: int) -> dict[str, list[Record]]:
        """The first generations of every method; a method whose records are gone is left out."""
        texts = {}
        for path in self._files():
            records = []
            for where, data in islice(json_lines(path, []), most):
                records.append(parse_record(data, where))
            if records:
                texts[records[0].method] = records
        return texts

    def _files(self) -> list[Path]:
        own = []
        for path in sorted(self.folder.glob("*.jsonl")):
            if manifest_path(path).exists() and read_manifest(path).is_replay:
                own.append(path)
        return own


def find_replays(folder: Path) -> list[FoundReplay]:
    """Every replay below a folder."""
    files = sorted(folder.rglob(FILE))
    return [FoundReplay(read_summary(file), file.parent) for file in files]
