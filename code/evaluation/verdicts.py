"""Which method is faster than which, how sure that is, and what this run could not have shown.

Pure functions over per-question totals (`metrics.by_question`). The question is the unit: its samples and rounds share
its text, so they are resampled together (a bootstrap clustered by question).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from evaluation.metrics import Total, interval, ratio_of_totals

DEFINITIONS = """\
verdict    A is faster than B where the 95 % interval of the ratio of totals (bootstrap over questions, paired, as for the
           speed-up) leaves out 1 and the ratio is larger than the noise; none for fewer than 6 questions; pairs are not
           corrected for their number
could show the smallest difference this many questions find with 80 % power at 5 %: (t(0.975, n-1) + t(0.8, n-1)) standard
           errors of the mean log-ratio per question (Cohen 1988, ch. 2)
noise      vanilla against vanilla: repeats of the same run, or choices of one, compared as if they were methods; the largest
           difference counts; unknown where vanilla ran once"""
FEWEST = 6  # of five questions all agree by chance in one case of sixteen


@dataclass(frozen=True)
class Verdict:
    """How much faster `a` is than `b`; `could_show` is a share (0.03: 3 %), NaN for fewer than three questions."""

    a: str
    b: str
    ratio: float
    low: float
    high: float
    could_show: float
    questions: int
    noise: float = 1.0
    """How far vanilla is from vanilla, as a ratio of at least 1."""

    @property
    def text(self) -> str:
        if self.questions < FEWEST:
            return f"too few questions ({self.questions})"
        if self.low <= 1 <= self.high:
            return "not distinguishable"
        if max(self.ratio, 1 / self.ratio) <= self.noise:
            return "within the noise"
        return f"{self.a if self.low > 1 else self.b} faster"


def compare(a: str, b: str, first: dict[str, Total], second: dict[str, Total], noise: float = 1.0) -> Verdict:
    """Compare two methods on the questions both have."""
    shared = [q for q in first if q in second]
    columns = tuple(np.array([getattr(side[q], field) for q in shared], dtype=float)
                    for side in (first, second) for field in ("tokens", "seconds"))
    low, high = interval(ratio_of_totals, columns)
    return Verdict(a, b, float(ratio_of_totals(*columns)), low, high, smallest_difference(columns), len(shared), noise)


def floor(noise: list[Verdict]) -> float:
    """The largest difference of vanilla from itself, as a ratio of at least 1; 1 where it is not known."""
    return max((max(v.ratio, 1 / v.ratio) for v in noise), default=1.0)


def smallest_difference(columns: tuple[np.ndarray, ...]) -> float:
    """See DEFINITIONS, 'could show'."""
    logs = np.log(columns[0] / columns[1]) - np.log(columns[2] / columns[3])
    if len(logs) < 3:
        return float("nan")
    power = stats.t.ppf(0.975, len(logs) - 1) + stats.t.ppf(0.8, len(logs) - 1)
    return float(np.expm1(power * logs.std(ddof=1) / np.sqrt(len(logs))))


def pooled(repeats: list[dict[str, Total]]) -> dict[str, Total]:
    """Repeats of one run as one: tokens and seconds of the questions all of them have."""
    shared = set.intersection(*(set(r) for r in repeats))
    return {q: Total(sum(r[q].tokens for r in repeats), sum(r[q].seconds for r in repeats))
            for q in repeats[0] if q in shared}


def all_pairs(totals: dict[str, dict[str, Total]], noise: float = 1.0) -> list[Verdict]:
    """Every pair of methods of one setting that shares a question, the faster first."""
    names = sorted(totals, key=lambda n: -_speed(totals[n]))
    return [compare(a, b, totals[a], totals[b], noise) for i, a in enumerate(names) for b in names[i + 1:]
            if set(totals[a]) & set(totals[b])]


def _speed(totals: dict[str, Total]) -> float:
    return sum(t.tokens for t in totals.values()) / sum(t.seconds for t in totals.values())
