"""What replays tell of a method: additive tallies by question, and the numbers made of them.

A replay has steps, drafts and acceptance, but no wall time of a target. Tallies add up, so a corpus
of any size is read once, question by question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.analysis import acceptance, metrics
from evaluation.analysis.acceptance import DEEPEST, Survival, Tally
from evaluation.analysis.redundancy import MATCHES
from evaluation.records.schema import Record
from model.index.suffix_automaton import SuffixAutomaton

COMPLETE, CUT, LOOPING = "complete", "cut", "looping"
SPLITS = (COMPLETE, CUT, LOOPING)
"""A trace that ends in a loop is looping, whether cut or not."""
PLACES = (0, 512, 1024, 2048, 4096, 8192, 16384)
"""Lower bounds of the bins of output positions."""
GROUPS = ("categories", "sources", "samples", "rounds", "phases", "tenths", "places", "matches")


@dataclass
class Steps:
    """The steps of some generations of one question: what a price is made from."""

    drafted: Counter[int] = field(default_factory=Counter)
    """Steps by nodes drafted, the root not counted."""
    emitted: Counter[int] = field(default_factory=Counter)
    """Steps by tokens emitted."""
    context: float = 0.0
    """Sum over steps of the tokens cached."""
    seconds: float = 0.0
    """That drafting took on the machine of the replay."""

    @property
    def steps(self) -> int:
        return sum(self.emitted.values())

    @property
    def tokens(self) -> int:
        return sum(count * tokens for tokens, count in self.emitted.items())

    @property
    def nodes(self) -> int:
        """Drafted in all."""
        return sum(count * nodes for nodes, count in self.drafted.items())

    @property
    def mat(self) -> float:
        return self.tokens / self.steps if self.steps else metrics.NAN

    @property
    def mean_context(self) -> float:
        return self.context / max(1, self.steps)

    def add(self, other: Steps) -> None:
        self.drafted.update(other.drafted)
        self.emitted.update(other.emitted)
        self.context += other.context
        self.seconds += other.seconds

    @classmethod
    def of(cls, record: Record) -> Steps:
        steps = cls(Counter(record.draft_lengths), Counter(record.accept_lengths))
        cached = record.prompt_tokens
        for emitted in record.accept_lengths:
            steps.context += cached
            cached += emitted
        steps.seconds = record.draft_time or 0.0
        return steps

    @classmethod
    def sum_of(cls, parts: Iterable[Steps]) -> Steps:
        total = cls()
        for part in parts:
            total.add(part)
        return total

    def as_json(self) -> dict[str, Any]:
        return {
            "drafted": dict(sorted(self.drafted.items())),
            "emitted": dict(sorted(self.emitted.items())),
            "context": self.context,
            "seconds": round(self.seconds, 6),
        }

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Steps:
        return cls(
            _counter(data["drafted"]), _counter(data["emitted"]), data["context"], data["seconds"]
        )


@dataclass
class MethodTally:
    """Everything counted of one method; `add` is all that a larger corpus needs."""

    questions: dict[str, dict[str, Steps]] = field(default_factory=dict)
    """By question and split."""
    groups: dict[str, dict[str, Tally]] = field(default_factory=dict)
    """GROUPS: acceptance by category, drafter, sample, round, phase, tenth of the output, output
    position, length of the match at the root."""
    survival: Survival = field(default_factory=Survival)
    """By draft position."""

    def add(self, other: MethodTally) -> None:
        """Another question's."""
        for question, splits in other.questions.items():
            mine = self.questions.setdefault(question, {})
            for split, steps in splits.items():
                mine.setdefault(split, Steps()).add(steps)
        for group, tallies in other.groups.items():
            of_group = self.groups.setdefault(group, {})
            for name, tally in tallies.items():
                _merge(of_group.setdefault(name, Tally()), tally)
        for depth in range(DEEPEST):
            self.survival.drafted[depth] += other.survival.drafted[depth]
            self.survival.accepted[depth] += other.survival.accepted[depth]

    def of_questions(self, split: str | None = None) -> list[Steps]:
        """The steps of every question, or of its generations of one split."""
        found = []
        for splits in self.questions.values():
            chosen = [steps for name, steps in splits.items() if split in (None, name)]
            if chosen:
                found.append(Steps.sum_of(chosen))
        return found

    def on(self, questions: Iterable[str]) -> MethodTally:
        """Of these questions; the groups stay those of all."""
        wanted = set(questions)
        kept = {name: splits for name, splits in self.questions.items() if name in wanted}
        return MethodTally(kept, self.groups, self.survival)

    def as_json(self) -> dict[str, Any]:
        questions = {}
        for question, splits in self.questions.items():
            questions[question] = {name: steps.as_json() for name, steps in splits.items()}
        groups: dict[str, dict[str, list[int]]] = {}
        for group, tallies in self.groups.items():
            groups[group] = {n: [t.steps, t.emitted, t.drafted] for n, t in tallies.items()}
        survival = {"drafted": self.survival.drafted, "accepted": self.survival.accepted}
        return {"questions": questions, "groups": groups, "survival": survival}

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> MethodTally:
        tally = cls()
        for question, splits in data["questions"].items():
            tally.questions[question] = {n: Steps.of_json(steps) for n, steps in splits.items()}
        for group, tallies in data["groups"].items():
            tally.groups[group] = {name: Tally(*counts) for name, counts in tallies.items()}
        survival = data["survival"]
        tally.survival = Survival(list(survival["drafted"]), list(survival["accepted"]))
        return tally


def tally(
    records: list[Record], matches: list[np.ndarray], end_think_id: int | None
) -> MethodTally:
    """Of one question's generations by one method.

    `matches` are the lengths of the longest earlier match after every output token, a list entry a
    generation (`match_lengths`).
    """
    result = MethodTally(survival=acceptance.by_draft_position(records))
    result.groups = {group: {} for group in GROUPS}
    for record, lengths in zip(records, matches, strict=True):
        splits = result.questions.setdefault(record.question_id, {})
        splits.setdefault(split_of(record, end_think_id), Steps()).add(Steps.of(record))
        if not record.accept_lengths:
            continue
        table = _StepTable.of(record)
        thinks = table.at <= _end_of_thinking(record, end_think_id)
        tenths = np.minimum(9, table.at * 10 // max(1, record.tokens))
        places = np.searchsorted(PLACES, table.at, side="right") - 1
        before = np.searchsorted(MATCHES, lengths[table.at - 1], side="right") - 1
        constant = np.zeros_like(table.at)
        source_names = list(dict.fromkeys(name for name, _ in record.draft_source))
        labelled: dict[str, tuple[Sequence[str], np.ndarray]] = {
            "categories": ((record.category,), constant),
            "samples": ((str(record.sample + 1),), constant),
            "rounds": ((str(record.round + 1),), constant),
            "sources": (source_names, _source_numbers(record, source_names)),
            "phases": (("answer", "thinking"), thinks.astype(int)),
            "tenths": ([str(tenth + 1) for tenth in range(10)], tenths),
            "places": ([str(place) for place in PLACES], places),
            "matches": ([str(length) for length in MATCHES], before),
        }
        for group, (labels, numbers) in labelled.items():
            table.add_to(result.groups[group], labels, numbers)
    return result


@dataclass(frozen=True)
class _StepTable:
    """The steps of a record as columns, one entry a step."""

    at: np.ndarray
    """Output position of the first emitted token."""
    emitted: np.ndarray
    drafted: np.ndarray

    @classmethod
    def of(cls, record: Record) -> _StepTable:
        emitted = np.array(record.accept_lengths)
        return cls(1 + np.cumsum(emitted) - emitted, emitted, np.array(record.draft_lengths))

    def add_to(self, tallies: dict[str, Tally], labels: Sequence[str], numbers: np.ndarray) -> None:
        """Count every step under the label of its number."""
        steps = np.bincount(numbers, minlength=len(labels))
        emitted = np.bincount(numbers, self.emitted, len(labels))
        drafted = np.bincount(numbers, self.drafted, len(labels))
        for number in np.flatnonzero(steps).tolist():
            tally = Tally(int(steps[number]), int(emitted[number]), int(drafted[number]))
            _merge(tallies.setdefault(labels[number], Tally()), tally)


def _source_numbers(record: Record, names: list[str]) -> np.ndarray:
    numbers = [names.index(name) for name, _ in record.draft_source]
    return np.repeat(numbers, [count for _, count in record.draft_source])


def match_lengths(texts: Iterable[tuple[list[int], list[int]]]) -> list[np.ndarray]:
    """Of (prompt, output) pairs of one question in order: how long the longest suffix is, after
    every output token, that occurred before in any of them."""
    automaton = SuffixAutomaton()
    lengths = []
    for prompt, output in texts:
        text = automaton.open()
        text.feed(prompt)
        lengths.append(text.feed_and_measure(output))
    return lengths


def split_of(record: Record, end_think_id: int | None) -> str:
    """COMPLETE, CUT or LOOPING."""
    if acceptance.looping(record, end_think_id):
        return LOOPING
    return CUT if record.finish_reason == "length" else COMPLETE


@dataclass(frozen=True)
class Mat:
    """Mean accepted tokens, with 95 % over questions."""

    mean: float
    low: float
    high: float
    questions: int
    steps: Steps


def mat(questions: list[Steps]) -> Mat:
    """Ratio of totals over questions; its interval resamples whole questions."""
    total = Steps.sum_of(questions)
    tokens = np.array([steps.tokens for steps in questions], dtype=float)
    steps = np.array([steps.steps for steps in questions], dtype=float)
    low, high = metrics.interval(_ratio_of_sums, (tokens, steps))
    return Mat(total.mat, low, high, len(questions), total)


def _ratio_of_sums(above: np.ndarray, below: np.ndarray, axis: int = -1) -> Any:
    return above.sum(axis) / below.sum(axis)


def price(questions: list[Steps], cost: Callable[[Steps], float]) -> tuple[float, float, float]:
    """(tokens per cost, and its 95 % over questions); `cost` in vanilla steps."""
    tokens = np.array([steps.tokens for steps in questions], dtype=float)
    costs = np.array([cost(steps) for steps in questions])
    low, high = metrics.interval(_ratio_of_sums, (tokens, costs))
    return float(tokens.sum() / costs.sum()) if costs.sum() else metrics.NAN, low, high


def _end_of_thinking(record: Record, end_think_id: int | None) -> int:
    ids = record.output_ids
    if end_think_id is not None and end_think_id in ids:
        return ids.index(end_think_id)
    return len(ids)


def _merge(into: Tally, other: Tally) -> None:
    into.steps += other.steps
    into.emitted += other.emitted
    into.drafted += other.drafted


def _counter(data: dict[str, int]) -> Counter[int]:
    return Counter({int(number): count for number, count in data.items()})
