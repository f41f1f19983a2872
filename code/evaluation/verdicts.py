"""Which method is faster than which, how sure that is, and what this run could not have shown.

Pure functions over per-question totals (`metrics.by_question`). The question is the unit: its samples and rounds share
its text, so they are resampled together (a bootstrap clustered by question).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from evaluation.metrics import Total, interval, ratio_of_totals

DEFINITIONS = """\
verdict    A is faster than B where the 95 % interval of the ratio of totals (bootstrap over questions, paired) leaves
           out 1; pairs are not corrected for their number
could show the smallest difference this many questions find with 80 % power at 5 %: 2.8 standard errors of the mean
           log-ratio per question (z(0.975) + z(0.8) = 1.96 + 0.84; Cohen 1988, ch. 2)
noise      vanilla against vanilla: two repeats of the same run, or two of its choices, compared as if they were methods"""


@dataclass(frozen=True)
class Verdict:
    """How much faster `a` is than `b`; `could_show` is a share (0.03: 3 %), NaN for fewer than three questions."""

    a: str
    b: str
    ratio: float
    low: float
    high: float
    could_show: float

    @property
    def text(self) -> str:
        if self.low > 1:
            return f"{self.a} faster"
        if self.high < 1:
            return f"{self.b} faster"
        return "not distinguishable"


def compare(a: str, b: str, first: dict[str, Total], second: dict[str, Total]) -> Verdict:
    """Compare two methods on the questions both have."""
    shared = [q for q in first if q in second]
    columns = tuple(np.array([getattr(side[q], field) for q in shared], dtype=float)
                    for side in (first, second) for field in ("tokens", "seconds"))
    low, high = interval(ratio_of_totals, columns)
    return Verdict(a, b, float(ratio_of_totals(*columns)), low, high, smallest_difference(columns))


def smallest_difference(columns: tuple[np.ndarray, ...]) -> float:
    """See DEFINITIONS, 'could show'."""
    logs = np.log(columns[0] / columns[1]) - np.log(columns[2] / columns[3])
    if len(logs) < 3:
        return float("nan")
    power = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    return float(np.expm1(power * logs.std(ddof=1) / np.sqrt(len(logs))))


def pooled(repeats: list[dict[str, Total]]) -> dict[str, Total]:
    """Repeats of one run as one: tokens and seconds of the questions all of them have."""
    shared = set.intersection(*(set(r) for r in repeats))
    return {q: Total(sum(r[q].tokens for r in repeats), sum(r[q].seconds for r in repeats))
            for q in repeats[0] if q in shared}


def all_pairs(totals: dict[str, dict[str, Total]]) -> list[Verdict]:
    """Every pair of methods of one setting that shares a question, the faster first."""
    names = sorted(totals, key=lambda n: -_speed(totals[n]))
    return [compare(a, b, totals[a], totals[b]) for i, a in enumerate(names) for b in names[i + 1:]
            if set(totals[a]) & set(totals[b])]


def _speed(totals: dict[str, Total]) -> float:
    return sum(t.tokens for t in totals.values()) / sum(t.seconds for t in totals.values())
