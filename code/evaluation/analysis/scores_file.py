"""What `evaluation.score` wrote beside a records file, for those who show it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from evaluation.records.runs import RunFile


@dataclass(frozen=True)
class Scores:
    """Of one run."""

    accuracy: float
    seconds_per_correct: float
    """NaN where no answer is right."""


def scores_path(records: Path) -> Path:
    """Where a run's grades lie."""
    return records.with_suffix(".scores.json")


def read_scores(records: Path, notices: list[str]) -> Scores | None:
    """None where the run was not scored, or, which is said, the file is damaged."""
    file = scores_path(records)
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["summary"]
        return Scores(float(found["accuracy"]), float(found["seconds_per_correct"]))
    except (OSError, ValueError, LookupError, TypeError):
        notices.append(
            f"{file} is damaged and left out: python -m evaluation.score DIR writes it anew"
        )
        return None


def mean_scores(runs: Sequence[RunFile], notices: list[str]) -> Scores | None:
    """Of a method's repeats, averaged; None where none was scored."""
    scores = [read_scores(run.path, notices) for run in runs]
    known = [score for score in scores if score is not None]
    if not known:
        return None
    return Scores(
        mean(score.accuracy for score in known),
        mean(score.seconds_per_correct for score in known),
    )
