"""Accuracy, pass@k, majority vote, and what a correct answer costs, from graded generations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

from evaluation.analysis.metrics import NAN
from evaluation.analysis.sameness import Sameness, sameness
from evaluation.records.runs import RunFile
from evaluation.records.schema import Record
from evaluation.tasks.boxed import last_boxed


@dataclass(frozen=True)
class Graded:
    """A generation with its grade."""

    record: Record
    final_answer: str
    """The text after the thinking; empty where the thinking never ended."""
    right: bool | None
    """None where the question has no reference answer."""


@dataclass(frozen=True)
class ScoreResult:
    """One run's scores. Shares are NaN where there is nothing to take them of."""

    method: str
    setting: tuple[str, float, str]
    """Paradigm, temperature, the target's fingerprint."""
    n: int
    """Graded generations."""
    accuracy: float
    same_as_vanilla: Sameness | None
    """None without a vanilla run."""
    rounds: dict[int, float]
    """Accuracy by round."""
    samples: dict[int, float]
    """Accuracy by sample."""
    k: int
    """Samples of the question with the fewest."""
    pass_at_k: float
    vote: float
    """Accuracy of the commonest boxed answer."""
    tokens: float
    """Mean of a generation."""
    seconds_per_correct: float
    tokens_per_correct: float
    unscorable: int
    failed: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def rate(graded: Sequence[Graded]) -> float:
    """Share of right ones among the scorable."""
    scored = [item.right for item in graded if item.right is not None]
    return sum(scored) / len(scored) if scored else NAN


def pass_at_k(right: int, total: int, k: int) -> float:
    """Chance that one of k samples is right, unbiased (Chen et al. 2021, eq. 1)."""
    wrong = total - right
    return 1.0 if wrong < k else 1.0 - comb(wrong, k) / comb(total, k)


def vote(graded: Sequence[Graded]) -> bool | None:
    """Is the commonest boxed answer right? Of ties the first to appear counts."""
    boxes = [last_boxed(item.final_answer) for item in graded]
    given = [box for box in boxes if box is not None]
    if not given:
        return False
    winner = Counter(given).most_common(1)[0][0]
    return graded[boxes.index(winner)].right


def score_result(run: RunFile, base: RunFile | None, graded: Sequence[Graded]) -> ScoreResult:
    """One run's scores; `base` is the vanilla run beside it."""
    right = sum(item.right is True for item in graded)
    tokens = sum(item.record.tokens for item in graded)
    # what a paradigm called off has its cost too
    spent_tokens = sum(record.tokens for record in run.records)
    spent_seconds = sum(record.seconds for record in run.records)
    scorable = _scorable_questions(graded)
    k = min((len(group) for group in scorable), default=0)
    passed = []
    for group in scorable:
        passed.append(pass_at_k(sum(bool(item.right) for item in group), len(group), k))
    votes = [bool(vote(group)) for group in scorable]
    by_round = _by_number(graded, lambda record: record.round)
    by_sample = _by_number(graded, lambda record: record.sample)
    return ScoreResult(
        method=run.name,
        setting=(run.setting.paradigm, run.setting.temperature, run.setting.model),
        n=len(graded),
        accuracy=rate(graded),
        same_as_vanilla=sameness(run, base) if base else None,
        rounds={number: rate(group) for number, group in by_round.items()},
        samples={number: rate(group) for number, group in by_sample.items()},
        k=k,
        pass_at_k=sum(passed) / len(passed) if passed else NAN,
        vote=sum(votes) / len(votes) if votes else NAN,
        tokens=tokens / len(graded) if graded else NAN,
        seconds_per_correct=spent_seconds / right if right else NAN,
        tokens_per_correct=spent_tokens / right if right else NAN,
        unscorable=sum(item.right is None for item in graded),
        failed=sum(record.failed for record in run.records),
    )


def _scorable_questions(graded: Sequence[Graded]) -> list[list[Graded]]:
    """The generations of every question that has a reference answer."""
    groups: dict[str, list[Graded]] = defaultdict(list)
    for item in graded:
        groups[item.record.question_id].append(item)
    scorable = []
    for question in sorted(groups):
        if all(item.right is not None for item in groups[question]):
            scorable.append(groups[question])
    return scorable


def _by_number(
    graded: Sequence[Graded], number_of: Callable[[Record], int]
) -> dict[int, list[Graded]]:
    groups: dict[int, list[Graded]] = defaultdict(list)
    for item in graded:
        groups[number_of(item.record)].append(item)
    return dict(sorted(groups.items()))
