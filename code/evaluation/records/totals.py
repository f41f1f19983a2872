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
    waited: float = 0.0
    """Of these seconds, those known to have been waited for a core."""
    control_steps: float | None = None
    """The rest in control steps: vanilla steps of fixed shape as they took at that time. None where
    they are not known."""

    @property
    def ran(self) -> float:
        """Seconds without the waits."""
        return self.seconds - self.waited

    @classmethod
    def sum_of(cls, parts: Sequence[Total]) -> Total:
        steps = [part.control_steps for part in parts if part.control_steps is not None]
        return cls(
            tokens=sum(part.tokens for part in parts),
            seconds=sum(part.seconds for part in parts),
            waited=sum(part.waited for part in parts),
            control_steps=sum(steps) if len(steps) == len(parts) else None,
        )


def finished(records: Iterable[Record]) -> list[Record]:
    """Records that carry numbers: all but those that failed or never began."""
    return [record for record in records if not record.failed and not record.never_began]


def total(record: Record) -> Total:
    """Of one generation."""
    if record.never_began:
        return Total(tokens=0, seconds=0.0, control_steps=0.0)
    waited = min(record.waited_time or 0.0, record.seconds)
    steps = None
    if record.control_time:
        # the control's step was timed without waits too
        steps = (record.seconds - waited) / record.control_time
    return Total(record.tokens, record.seconds, waited, steps)


def by_question(records: Iterable[Record]) -> dict[str, Total]:
    """Totals of every question all of whose generations have numbers."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.question_id, []).append(record)
    totals = {}
    for question, group in groups.items():
        if not any(record.failed for record in group):
            totals[question] = Total.sum_of([total(record) for record in group])
    return totals
