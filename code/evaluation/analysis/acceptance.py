"""Acceptance seen closely: by draft position, round, sample, phase, place in the output, drafter.

Pure functions over records. A step emits its accepted drafted tokens and the bonus.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from evaluation.analysis.metrics import NAN
from evaluation.records.schema import Record

DEEPEST = 64
"""Draft positions counted."""
ENOUGH_DRAFTS = 20
"""So many drafts must reach a position for its rate to be told."""
LONGEST_PERIOD = 200
"""Tokens of the longest loop looked for."""


@dataclass
class Tally:
    """Steps, tokens emitted and nodes drafted in them."""

    steps: int = 0
    emitted: int = 0
    drafted: int = 0

    def add(self, emitted: int, drafted: int) -> None:
        """One more step."""
        self.steps += 1
        self.emitted += emitted
        self.drafted += drafted

    @property
    def mat(self) -> float:
        """Mean accepted tokens; NaN without a step."""
        return self.emitted / self.steps if self.steps else NAN


@dataclass
class Survival:
    """By draft position d from 1: steps that drafted so far, and those that accepted so far."""

    drafted: list[int] = field(default_factory=lambda: [0] * DEEPEST)
    accepted: list[int] = field(default_factory=lambda: [0] * DEEPEST)

    def rate(self, position: int) -> float:
        """Share accepted among the steps that drafted so far; NaN without any."""
        steps = self.drafted[position - 1]
        return self.accepted[position - 1] / steps if steps else NAN

    def rates(self) -> list[float]:
        """As far as there is acceptance, and enough drafts to tell it from."""
        last = 0
        for position in range(1, DEEPEST + 1):
            is_enough = self.drafted[position - 1] >= ENOUGH_DRAFTS
            if is_enough and self.accepted[position - 1]:
                last = position
        return [self.rate(position) for position in range(1, last + 1)]


@dataclass(frozen=True)
class Step:
    """One target forward of a record."""

    at: int
    """Output position of its first emitted token; the prefill's token is at 0."""
    emitted: int
    drafted: int
    source: str


def steps(record: Record) -> Iterator[Step]:
    """Every step of a generation, in order."""
    at = 1
    for source, emitted, drafted in zip(
        sources(record), record.accept_lengths, record.draft_lengths, strict=False
    ):
        yield Step(at, emitted, drafted, source)
        at += emitted


def sources(record: Record) -> list[str]:
    """Who drafted, one entry a step."""
    names: list[str] = []
    for name, count in record.draft_source:
        names += [name] * count
    return names


def grouped(records: Iterable[Record], key: Callable[[Record], int]) -> dict[int, Tally]:
    """Tallies by a property of the generation (its round, its sample)."""
    tallies: dict[int, Tally] = defaultdict(Tally)
    for record in records:
        tally = tallies[key(record)]
        tally.steps += record.steps
        tally.emitted += record.emitted
        tally.drafted += sum(record.draft_lengths)
    return dict(sorted(tallies.items()))


def by_source(records: Iterable[Record]) -> dict[str, Tally]:
    """Tallies by who drafted the step: which half of a hybrid earns what."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    for record in records:
        for step in steps(record):
            tallies[step.source].add(step.emitted, step.drafted)
    return dict(sorted(tallies.items()))


def by_place(records: Iterable[Record], parts: int = 10) -> list[Tally]:
    """Tallies by tenth of the output (or another number of parts)."""
    tallies = [Tally() for _ in range(parts)]
    for record in records:
        for step in steps(record):
            part = step.at * parts // max(1, record.tokens)
            tallies[min(parts - 1, part)].add(step.emitted, step.drafted)
    return tallies


def by_phase(records: Iterable[Record], end_think_id: int | None) -> dict[str, Tally]:
    """Tallies of steps that begin before ('thinking') and after ('answer') the end of thinking.

    One phase, 'thinking', where there is no marker.
    """
    tallies: dict[str, Tally] = defaultdict(Tally)
    for record in records:
        end = len(record.output_ids)
        if end_think_id is not None and end_think_id in record.output_ids:
            end = record.output_ids.index(end_think_id)
        for step in steps(record):
            phase = "thinking" if step.at <= end else "answer"
            tallies[phase].add(step.emitted, step.drafted)
    return dict(tallies)


def by_draft_position(records: Iterable[Record]) -> Survival:
    """How far into a draft acceptance reaches."""
    survival = Survival()
    for record in records:
        lengths = Counter(zip(record.accept_lengths, record.draft_lengths, strict=False))
        for (emitted, drafted), count in lengths.items():
            for position in range(min(drafted, DEEPEST)):
                survival.drafted[position] += count
                if position < emitted - 1:
                    survival.accepted[position] += count
    return survival


def looping(record: Record, end_think_id: int | None = None) -> bool:
    """Does the text, or its thinking, end in a loop?

    Words that were forced to close the thinking are no part of it.
    """
    ids = record.output_ids
    if loops(ids[:-1] if record.finish_reason == "stop" else ids):
        return True
    if end_think_id is None or end_think_id not in ids:
        return False
    end = ids.index(end_think_id)
    most_forced = min(record.forced_tokens or 0, end)
    return any(loops(ids[: end - forced]) for forced in range(most_forced + 1))


def loops(tokens: list[int], longest_period: int = LONGEST_PERIOD, least: int = 60) -> bool:
    """Do the last max(3 p, `least`) tokens repeat with some period p?"""
    ids = np.array(tokens[-3 * longest_period :])
    for period in range(1, min(longest_period, len(ids) // 3) + 1):
        span = max(3 * period, least)
        if span > len(ids) or ids[-1] != ids[-1 - period]:
            continue
        if np.array_equal(ids[-span + period :], ids[-span:-period]):
            return True
    return False
