"""A method's speed against how many samples are decoded together.

A speed-up is over vanilla with as many together; where a method is no longer faster, drafting stops
paying.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import mean

from evaluation.analysis.comparison import Comparison, MethodRuns
from evaluation.analysis.metrics import NAN
from evaluation.analysis.results import SpeedResult, speed_result
from evaluation.analysis.scores_file import mean_scores

BASE = "vanilla"
NO_LONGER = ("slower", "not distinguishable", "within the noise")
"""Verdicts of a method that does not pay."""


@dataclass(frozen=True)
class Point:
    """A method with so many samples together."""

    setting: str
    together: int
    speed: SpeedResult
    latency: float
    """Seconds from the group's beginning to a sample's end, mean."""
    cost: float = NAN
    """Seconds a right answer; NaN where none is, or nobody scored."""

    @property
    def is_faster(self) -> bool | None:
        """Than vanilla; None where that cannot be said."""
        verdict = self.speed.verdict.against_b if self.speed.verdict else ""
        if verdict in NO_LONGER:
            return False
        return True if verdict == "faster" else None


def points_of(comparisons: Iterable[Comparison], notices: list[str]) -> list[Point]:
    """Every method beside vanilla, by setting, method and number together; vanilla first."""
    points: list[Point] = []
    for comparison in comparisons:
        if comparison.vanilla is not None:
            points += _of_comparison(comparison, notices)
    order = sorted(points, key=lambda p: (p.speed.method != BASE, p.speed.method, p.together))
    return sorted(order, key=lambda point: point.setting)


def _of_comparison(comparison: Comparison, notices: list[str]) -> list[Point]:
    points = []
    for method in comparison.methods:
        speed = speed_result(comparison, method)
        if speed.speed_up is not None:
            scores = mean_scores(method.runs, notices)
            cost = scores.seconds_per_correct if scores else NAN
            together = comparison.setting.together
            points.append(Point(comparison.name, together, speed, _latency(method), cost))
    return points


def _latency(method: MethodRuns) -> float:
    """Mean; before there were groups a generation's wall time."""
    seconds = [r.seconds if r.latency is None else r.latency for r in method.records]
    return mean(seconds) if seconds else NAN


def has_several(points: Sequence[Point]) -> bool:
    """Was any setting run with more than one number together?"""
    kinds = {(point.setting, point.together) for point in points}
    return len(kinds) > len({setting for setting, _ in kinds})


def is_scored(points: Sequence[Point]) -> bool:
    """Is the cost of a right answer known of any?"""
    return not all(isnan(point.cost) for point in points)


def conclusions(points: Sequence[Point]) -> list[str]:
    """From which number together each method of one setting is no longer faster than vanilla."""
    lines = []
    for method in dict.fromkeys(point.speed.method for point in points):
        own = [point for point in points if point.speed.method == method]
        lost = [point.together for point in own if point.is_faster is False]
        if lost:
            lines.append(f"{method}: drafting does not pay with {min(lost)} together")
    return lines
