"""How repetitive the texts are: the reason why drafting from earlier text works at all.

For every token of a text: was the n-gram that ends in it written before, in the same text, in
earlier samples of the question, in earlier rounds? And how long is the longest suffix that occurred
before? Pure functions over records.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from evaluation.analysis.metrics import NAN
from evaluation.records.schema import Record
from evaluation.records.totals import finished
from model.index.suffix_automaton import SuffixAutomaton

SIZES = (2, 4, 8)
"""Tokens of the n-grams looked at."""
MATCHES = (0, 1, 2, 4, 8, 16, 32, 64)
"""Lower bounds of the match histogram's bins."""
MOST_TOKENS = 2_000_000
"""Of a setting that are read, in 15 seconds; whole questions from the first on."""


@dataclass(frozen=True)
class Recurrence:
    """Shares of n-grams that were written before."""

    same_text: float
    other_samples: float
    earlier_rounds: float
    anywhere: float
    """In any of them: what a memory over the question could find."""


@dataclass(frozen=True)
class Matches:
    """Histograms over MATCHES of the longest earlier match before each token, as shares."""

    same_text: list[float]
    whole_question: list[float]


@dataclass(frozen=True)
class Redundancy:
    """Both analyses of one setting's texts."""

    recurrence: dict[int, Recurrence]
    """By n."""
    matches: Matches
    questions: int
    """How many questions' texts were read."""
    is_partial: bool
    """Were there more than MOST_TOKENS tokens?"""


def redundancy(records: list[Record]) -> Redundancy:
    """Of the finished generations of a setting, each text once."""
    kept = within_limit(records)
    return Redundancy(
        recurrence={n: recurrence(kept, n) for n in SIZES},
        matches=longest_matches(kept),
        questions=len({record.question_id for record in kept}),
        is_partial=len(kept) < len(records),
    )


def grams(ids: list[int], n: int) -> list[int]:
    """Hashes of the n-grams, in order."""
    return [hash(tuple(ids[i : i + n])) for i in range(len(ids) - n + 1)]


@dataclass(frozen=True)
class _EarlierText:
    sample: int
    round: int
    grams: set[int]


def recurrence(records: Iterable[Record], n: int) -> Recurrence:
    """Which share of the n-grams was seen before."""
    in_same = in_samples = in_rounds = anywhere = total = 0
    for texts in _questions(records).values():
        earlier: list[_EarlierText] = []
        for record in texts:
            samples: set[int] = set()
            rounds: set[int] = set()
            for text in earlier:
                if text.sample != record.sample:
                    samples |= text.grams
                elif text.round != record.round:
                    rounds |= text.grams
            earlier_here: set[int] = set()
            for gram in grams(record.output_ids, n):
                in_same += gram in earlier_here
                in_samples += gram in samples
                in_rounds += gram in rounds
                anywhere += gram in earlier_here or gram in samples or gram in rounds
                total += 1
                earlier_here.add(gram)
            earlier.append(_EarlierText(record.sample, record.round, earlier_here))
    if not total:
        return Recurrence(NAN, NAN, NAN, NAN)
    return Recurrence(in_same / total, in_samples / total, in_rounds / total, anywhere / total)


def longest_matches(records: Iterable[Record]) -> Matches:
    """How long the longest earlier match is before each token, within a text and the question."""
    within_text = np.zeros(len(MATCHES), dtype=np.int64)
    within_question = within_text.copy()
    for texts in _questions(records).values():
        question = SuffixAutomaton()
        for record in texts:
            alone = SuffixAutomaton().open().feed_and_measure(record.output_ids)
            with_others = question.open().feed_and_measure(record.output_ids)
            within_text += _histogram(alone)
            within_question += _histogram(with_others)
    return Matches(_shares(within_text), _shares(within_question))


def within_limit(records: list[Record]) -> list[Record]:
    """Whole questions up to MOST_TOKENS tokens."""
    tokens: Counter[str] = Counter()
    for record in records:
        tokens[record.question_id] += len(record.output_ids)
    kept: set[str] = set()
    total = 0
    for question, count in tokens.items():
        if kept and total + count > MOST_TOKENS:
            break
        kept.add(question)
        total += count
    return [record for record in records if record.question_id in kept]


def _histogram(lengths: np.ndarray) -> np.ndarray:
    """How many lengths lie in each bin of MATCHES."""
    bins = np.searchsorted(MATCHES, lengths, side="right") - 1
    return np.bincount(bins, minlength=len(MATCHES))


def _shares(bins: np.ndarray) -> list[float]:
    return (bins / max(1, int(bins.sum()))).tolist()


def _questions(records: Iterable[Record]) -> dict[tuple[str, int], list[Record]]:
    """Finished generations by question and choice, in the order they were made."""
    groups: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in finished(records):
        groups[record.question_id, record.choice].append(record)
    return groups
