"""Acceptance seen closely: by draft position, round, sample, phase, place in the output, and drafter.

Pure functions over records; no torch, no models. A step emits its accepted drafted tokens and the bonus.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.records import Record

LOOP_RULE = ("looping: the last max(3 p, 60) tokens repeat with some period p of at most 200 tokens "
             "(the final stop id aside)")


@dataclass
class Tally:
    """Steps, tokens emitted and nodes drafted in them."""

    steps: int = 0
    emitted: int = 0
    drafted: int = 0

    def add(self, emitted: int, drafted: int) -> None:
        self.steps += 1
        self.emitted += emitted
        self.drafted += drafted

    @property
    def mat(self) -> float:
        return self.emitted / self.steps if self.steps else float("nan")


@dataclass
class Survival:
    """How often a step accepted at least d drafted tokens, among the steps that drafted anything."""

    steps: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * 16)

    def rate(self, position: int) -> float:
        """Share of drafting steps whose drafted token number `position` (from 1) was accepted."""
        return self.counts[position - 1] / self.steps if self.steps else float("nan")


def sources(record: Record) -> list[str]:
    """Who drafted, one entry a step."""
    return [name for name, count in record.draft_source for _ in range(count)]


def grouped(records: Iterable[Record], key: Callable[[Record], Hashable]) -> dict[Any, Tally]:
    """Tallies by a property of the generation."""
    found: dict[Any, Tally] = defaultdict(Tally)
    for r in records:
        tally = found[key(r)]
        tally.steps += len(r.accept_lengths)
        tally.emitted += sum(r.accept_lengths)
        tally.drafted += sum(r.draft_lengths)
    return dict(sorted(found.items()))


def by_source(records: Iterable[Record]) -> dict[str, Tally]:
    """Tallies by who drafted the step: which half of a hybrid earns what."""
    found: dict[str, Tally] = defaultdict(Tally)
    for r in records:
        for name, emitted, drafted in zip(sources(r), r.accept_lengths, r.draft_lengths):
            found[name].add(emitted, drafted)
    return dict(sorted(found.items()))


def by_place(records: Iterable[Record], parts: int = 10) -> list[Tally]:
    """Tallies by tenth of the output (or another number of parts)."""
    found = [Tally() for _ in range(parts)]
    for r in records:
        at = 1  # the prefill emitted the first token
        for emitted, drafted in zip(r.accept_lengths, r.draft_lengths):
            found[min(parts - 1, at * parts // max(1, r.new_tokens))].add(emitted, drafted)
            at += emitted
    return found


def by_phase(records: Iterable[Record], end_think_id: int | None) -> dict[str, Tally]:
    """Tallies of steps that begin before and after the end of thinking; one phase where there is no marker."""
    found: dict[str, Tally] = defaultdict(Tally)
    for r in records:
        has = end_think_id is not None and end_think_id in r.output_ids
        end = r.output_ids.index(end_think_id) if has else len(r.output_ids)
        at = 1
        for emitted, drafted in zip(r.accept_lengths, r.draft_lengths):
            found["thinking" if at <= end else "answer"].add(emitted, drafted)
            at += emitted
    return dict(found)


def by_draft_position(records: Iterable[Record]) -> Survival:
    """How far into a draft acceptance reaches."""
    found = Survival()
    for r in records:
        for emitted, drafted in zip(r.accept_lengths, r.draft_lengths):
            if drafted:
                found.steps += 1
                for d in range(min(emitted - 1, len(found.counts))):
                    found.counts[d] += 1
    return found


def looping(record: Record, longest_period: int = 200, least: int = 60) -> bool:
    """Does the text end in a loop? See LOOP_RULE."""
    ids = np.array(record.output_ids[:-1] if record.finish_reason == "stop" else record.output_ids)
    for period in range(1, min(longest_period, len(ids) // 3) + 1):
        span = max(3 * period, least)
        if span <= len(ids) and ids[-1] == ids[-1 - period] and np.array_equal(ids[-span + period:], ids[-span:-period]):
            return True
    return False
