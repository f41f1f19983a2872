"""What a question cost a method: tokens and seconds over all its generations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.records.schema import Record


@dataclass(frozen=True)
class Total:
    """Tokens emitted and wall time of one question."""

    tokens: int
    seconds: float
    control_steps: float | None = None
    """The same time in control steps: vanilla steps of fixed shape as they took at that time. None
    where they are not known."""


def finished(records: Iterable[Record]) -> list[Record]:
    """Records that carry numbers: all but the failed."""
    return [record for record in records if not record.failed]


def control_steps(record: Record) -> float | None:
    """A generation's time in control steps; None where no control was recorded.

    Where it is known how long the generation waited for a core, that is taken off: the control's
    step was timed without such waits too.
    """
    if not record.control_time:
        return None
    ran = record.seconds - (record.waited_time or 0.0)
    return ran / record.control_time


def by_question(records: Iterable[Record]) -> dict[str, Total]:
    """Totals of every question all of whose generations have numbers."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.question_id, []).append(record)
    totals = {}
    for question, group in groups.items():
        if not any(record.failed for record in group):
            totals[question] = _total(group)
    return totals


def _total(records: Sequence[Record]) -> Total:
    steps = [control_steps(record) for record in records]
    known = [count for count in steps if count is not None]
    return Total(
        tokens=sum(record.tokens for record in records),
        seconds=sum(record.seconds for record in records),
        control_steps=sum(known) if len(known) == len(steps) else None,
    )
