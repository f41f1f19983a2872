"""The summary of a replay, `replay.json` beside its records: all that tables and figures need."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.analysis.bounds import Bounds
from evaluation.analysis.replays import MethodTally, Steps
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


def find_summaries(folder: Path) -> Iterable[ReplaySummary]:
    """Of every replay below a folder."""
    for file in sorted(folder.rglob(FILE)):
        yield read_summary(file)
