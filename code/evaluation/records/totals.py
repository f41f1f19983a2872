"""What a question cost a method: tokens and seconds over all its generations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from evaluation.records.schema import Record


@dataclass(frozen=True)
class Total:
    """Tokens emitted and wall time of one question."""

    tokens: int
    seconds: float


def finished(records: Iterable[Record]) -> list[Record]:
    """Records that carry numbers: all but the failed."""
    return [record for record in records if not record.failed]


def by_question(records: Iterable[Record]) -> dict[str, Total]:
    """Totals of every question all of whose generations have numbers."""
    tokens: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    incomplete = set()
    for record in records:
        question = record.question_id
        if record.failed:
            incomplete.add(question)
        tokens[question] += record.tokens
        seconds[question] = seconds.get(question, 0.0) + record.seconds
    totals = {}
    for question in tokens:
        if question not in incomplete:
            totals[question] = Total(tokens[question], seconds[question])
    return totals
