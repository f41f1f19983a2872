"""Acceptance seen closely: by draft position, round, sample, phase, place in the output, and drafter.

Pure functions over records; no torch, no models. A step emits its accepted drafted tokens and the bonus.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.records import Record

PHASES = ("prefill", "draft", "verify", "accept", "other")
DEFINITIONS = """\
thinking, answer   MAT of the steps that begin before and after the end of thinking; thirds: of the output
by who drafted     MAT of the steps a drafter made, and its share of all steps; none: nothing was drafted
position d         among steps whose draft had at least d nodes (for a tree: nodes, of whatever depth): how often at least d
                   drafted tokens were accepted
cut, looping, failed   generations that ended at the token budget; whose text or thinking ends in a loop: its last
                   max(3 p, 60) tokens repeat with some period p of at most 200; that yielded no text
time               milliseconds a step, and seconds of all generations; accept is the walk and the kept cache rows (on a GPU the
                   next verify moves these), other the loop around; draft is proposing and learning
peak memory        of the GPU, or of the process on a CPU; energy: joules of the GPU's board a token (NVML), where it tells"""


DEEPEST = 64  # draft positions counted


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
    """By draft position d from 1: steps whose draft had at least d nodes, and those that accepted at least d tokens."""

    drafted: list[int] = field(default_factory=lambda: [0] * DEEPEST)
    accepted: list[int] = field(default_factory=lambda: [0] * DEEPEST)

    def rate(self, position: int) -> float:
        """Share accepted among the steps that drafted so far."""
        steps = self.drafted[position - 1]
        return self.accepted[position - 1] / steps if steps else float("nan")

    def rates(self) -> list[float]:
        """As far as there is acceptance, and 20 drafts to tell it from."""
        last = max((d for d in range(1, DEEPEST + 1) if self.drafted[d - 1] >= 20 and self.accepted[d - 1]), default=0)
        return [self.rate(d) for d in range(1, last + 1)]


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
        for (emitted, drafted), count in Counter(zip(r.accept_lengths, r.draft_lengths)).items():
            for d in range(min(drafted, DEEPEST)):
                found.drafted[d] += count
                found.accepted[d] += count * (d < emitted - 1)
    return found


def looping(record: Record, end_think_id: int | None = None) -> bool:
    """Does the text, or its thinking, end in a loop? See DEFINITIONS. Forced closing words are no part of the thinking."""
    ids = record.output_ids
    if loops(ids[:-1] if record.finish_reason == "stop" else ids):
        return True
    if end_think_id is None or end_think_id not in ids:
        return False
    end = ids.index(end_think_id)
    return any(loops(ids[:end - forced]) for forced in range(min(record.forced_tokens or 0, end) + 1))


def loops(tokens: list[int], longest_period: int = 200, least: int = 60) -> bool:
    """Do the last max(3 p, 60) tokens repeat with some period p?"""
    ids = np.array(tokens[-3 * longest_period:])
    for period in range(1, min(longest_period, len(ids) // 3) + 1):
        span = max(3 * period, least)
        if span <= len(ids) and ids[-1] == ids[-1 - period] and np.array_equal(ids[-span + period:], ids[-span:-period]):
            return True
    return False
