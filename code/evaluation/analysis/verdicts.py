"""Which method is faster than which, how sure that is, and what this run could not have shown.

Pure functions over per-question totals. The question is the unit: its samples and rounds share its
text, so they are resampled together (a bootstrap clustered by question).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from evaluation.analysis.metrics import NAN, Paired, speed
from evaluation.records.totals import Total

FEWEST = 6
"""Questions for a verdict: of five all agree by chance in one case of sixteen."""

Outcome = Literal[
    "a faster",
    "b faster",
    "not distinguishable",
    "within the noise",
    "too few questions",
    "refused",
]


@dataclass(frozen=True)
class PairVerdict:
    """How much faster method `a` is than method `b`."""

    a: str
    b: str
    ratio: float
    low: float
    high: float
    could_show: float
    """The smallest difference these questions find, as a share; NaN for fewer than three."""
    questions: int
    noise: float = 1.0
    """How far vanilla is from vanilla, as a ratio of at least 1."""
    is_refused: bool = False
    """Are the figures of one of the two not believed?"""

    @property
    def outcome(self) -> Outcome:
        if self.is_refused:
            return "refused"
        if self.questions < FEWEST:
            return "too few questions"
        if self.low <= 1 <= self.high:
            return "not distinguishable"
        if max(self.ratio, 1 / self.ratio) <= self.noise:
            return "within the noise"
        return "a faster" if self.low > 1 else "b faster"

    @property
    def against_b(self) -> str:
        """The outcome for `a`, where `b` is what everything is compared with."""
        return {"a faster": "faster", "b faster": "slower"}.get(self.outcome, self.outcome)

    @property
    def winner(self) -> str | None:
        """The method that is faster, None where that cannot be said."""
        return {"a faster": self.a, "b faster": self.b}.get(self.outcome)


def compare(
    a: str,
    b: str,
    first: Mapping[str, Total],
    second: Mapping[str, Total],
    noise: float = 1.0,
    is_refused: bool = False,
) -> PairVerdict:
    """Compare two methods on the questions both have."""
    pair = Paired.fair(first, second)
    low, high = pair.interval()
    could_show = smallest_difference(pair)
    return PairVerdict(a, b, pair.ratio(), low, high, could_show, len(pair), noise, is_refused)


def noise_floor(noise: Sequence[PairVerdict]) -> float:
    """The largest difference of vanilla from itself, as a ratio of at least 1; 1 if not known."""
    return max((max(verdict.ratio, 1 / verdict.ratio) for verdict in noise), default=1.0)


def smallest_difference(pair: Paired) -> float:
    """What this many questions find with 80 % power at 5 %, as a share (Cohen 1988, ch. 2)."""
    logs = np.log(pair.ratios())
    if len(logs) < 3:
        return NAN
    freedom = len(logs) - 1
    power = stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)
    return float(np.expm1(power * logs.std(ddof=1) / np.sqrt(len(logs))))


def pooled(repeats: Sequence[Mapping[str, Total]]) -> dict[str, Total]:
    """Repeats of one run as one: tokens and seconds of the questions all of them have."""
    first, *others = repeats
    totals = {}
    for question in first:
        if all(question in repeat for repeat in others):
            totals[question] = Total.sum_of([repeat[question] for repeat in repeats])
    return totals


def all_pairs(
    totals: Mapping[str, Mapping[str, Total]],
    noise: float = 1.0,
    refused: Container[str] = (),
) -> list[PairVerdict]:
    """Every pair of methods that shares a question, the faster first.

    `refused` are the methods whose figures are not believed.
    """
    names = sorted(totals, key=lambda name: -speed(totals[name]))
    verdicts = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if set(totals[a]) & set(totals[b]):
                is_refused = a in refused or b in refused
                verdicts.append(compare(a, b, totals[a], totals[b], noise, is_refused))
    return verdicts
