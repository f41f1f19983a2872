"""How far the runs of a folder are: read while they go on in other processes, or after they died.

Nothing is written and nothing is locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.analysis import metrics
from evaluation.analysis.answer import sentence
from evaluation.analysis.comparison import Comparison, MethodRuns, comparisons_of
from evaluation.analysis.metrics import SpeedUp
from evaluation.analysis.results import setting_result
from evaluation.records.runs import RunFile, find_runs
from evaluation.records.schema import Record


@dataclass(frozen=True)
class MethodProgress:
    """One method of one setting."""

    method: str
    done: int
    """Questions."""
    total: int | None
    """Questions the run is to answer; None where its manifest does not say."""
    failed: int
    """Generations."""
    tokens: int
    tokens_per_second: float
    mat: float
    speed_up: SpeedUp | None
    seconds_left: float | None
    """Of its own questions, at the pace so far; None where that is not known."""
    last_written: float
    """Unix time of its newest record."""


@dataclass(frozen=True)
class SettingProgress:
    """All methods of one setting, and what can be said already."""

    title: str
    sentence: str
    methods: tuple[MethodProgress, ...]


def progress(folder: Path, notices: list[str]) -> list[SettingProgress]:
    """Of every setting below a folder; empty while no question is finished.

    Raises UserError for records that are damaged.
    """
    runs = find_runs(folder, notices, may_be_empty=True)
    return [_of_setting(comparison) for comparison in comparisons_of(runs, notices)]


def progress_of_runs(runs: Iterable[RunFile]) -> list[tuple[Path, MethodProgress]]:
    """Of these files, repeats of a method apart, beside vanilla where it is among them."""
    found = []
    for comparison in comparisons_of(runs, []):
        for method in comparison.methods:
            for run in method.runs:
                alone = replace(method, runs=(run,))
                found.append((run.path, _of_method(comparison, alone)))
    return found


def _of_setting(comparison: Comparison) -> SettingProgress:
    methods = [_of_method(comparison, method) for method in comparison.methods]
    said = sentence(setting_result(comparison, None))
    return SettingProgress(comparison.title, said, tuple(methods))


def _of_method(comparison: Comparison, method: MethodRuns) -> MethodProgress:
    records = method.all_records
    done = len({record.question_id for record in records})
    expected = [run.manifest.questions for run in method.runs]
    total = sum(n for n in expected if n) if all(expected) else None
    return MethodProgress(
        method=method.name,
        done=done,
        total=total,
        failed=sum(record.failed for record in records),
        tokens=sum(record.tokens for record in records),
        tokens_per_second=metrics.speed(method.totals),
        mat=metrics.mean_accepted_tokens(method.records),
        speed_up=comparison.speed_up(method, comparison.common_questions(method)),
        seconds_left=_seconds_left(records, done, total),
        last_written=max(record.tstamp for record in records),
    )


def _seconds_left(records: Sequence[Record], done: int, total: int | None) -> float | None:
    if total is None or not done:
        return None
    return (total - done) * sum(record.seconds for record in records) / done
