"""Was the machine as fast for a method as for vanilla? What the control says of it.

Every generation is recorded with the time of a vanilla step of fixed shape around it. Divided by
it, a generation's time is one in control steps, which a slower or faster machine leaves alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.records.totals import Total

SEEN_LOAD = 0.02
"""Methods timed under loads that differ by more than this are corrected."""
SEEN_SPREAD = 0.03
"""So are those whose control step varies by more than this from question to question (standard
deviation): on a quiet machine it varies by 1 %."""
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Drift:
    """How the control step changed between two methods, on the questions both have."""

    load: float
    """Its time while the first ran, over its time while the second did."""
    spread: float
    """Standard deviation of its time from question to question, as a share."""
    difference: float
    """Standard deviation of the two methods' difference within a question, as a share."""
    questions: int

    @property
    def is_seen(self) -> bool:
        """Is it large enough to correct for?"""
        return abs(np.log(self.load)) > SEEN_LOAD or self.spread > SEEN_SPREAD

    @property
    def noise(self) -> float:
        """How far apart the machine alone could bring two equal methods, as a share (95 %).

        What is corrected for is not in it, but how much that varies within questions is.
        """
        by_chance = NORMAL_95 * self.difference / np.sqrt(self.questions)
        systematic = 0.0 if self.is_seen else abs(np.log(self.load))
        return float(np.expm1(by_chance + systematic))


def drift(first: Mapping[str, Total], second: Mapping[str, Total]) -> Drift | None:
    """Between two methods; None where they share no question or the control is not known."""
    shared = [question for question in first if question in second]
    ours, theirs = _step_times(first, shared), _step_times(second, shared)
    if ours is None or theirs is None or not shared:
        return None
    load = _mean_step(first, shared) / _mean_step(second, shared)
    logs = np.log(ours), np.log(theirs)
    several = len(shared) > 1
    spread = max(float(log.std(ddof=1)) for log in logs) if several else 0.0
    # one question says nothing of how much its difference varies: all of it counts
    within = float((logs[0] - logs[1]).std(ddof=1)) if several else abs(float(np.log(load)))
    return Drift(load, spread, within, len(shared))


def _step_times(totals: Mapping[str, Total], questions: list[str]) -> np.ndarray | None:
    """The mean control step of every question, in seconds; None where one is not known."""
    times = []
    for question in questions:
        total = totals[question]
        if not total.control_steps:
            return None
        times.append(total.seconds / total.control_steps)
    return np.array(times)


def _mean_step(totals: Mapping[str, Total], questions: list[str]) -> float:
    seconds = sum(totals[question].seconds for question in questions)
    steps = sum(totals[question].control_steps or 0.0 for question in questions)
    return seconds / steps
