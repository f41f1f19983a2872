"""Speeds, acceptance and their intervals: pure functions, each defined once.

Times in seconds, speeds in tokens a second. What the words mean is printed beside every table
(`report/definitions.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from evaluation.analysis.drift import Unit, drift
from evaluation.records.schema import Record
from evaluation.records.totals import Total

NAN = float("nan")
RESAMPLES = 2000


@dataclass(frozen=True)
class SpeedUp:
    """Of one method over its baseline; `low` and `high` bound 95 %."""

    ratio: float
    low: float
    """NaN where one question only is shared."""
    high: float
    mean: float
    """Mean over questions of each question's own ratio."""
    questions: int
    timed: float | None = None
    """The ratio as timed, where drift was seen and the others are corrected by the control."""
    noise: float | None = None
    """How far apart two equal methods could be on these questions, as a share; None for fewer than
    two."""
    load: float | None = None
    """How much slower the machine was for the method than for the baseline; None where no control
    was recorded."""
    load_error: float = 0.0
    """Three standard errors of the load's logarithm."""

    @property
    def has_interval(self) -> bool:
        return self.low == self.low


@dataclass(frozen=True)
class Paired:
    """Tokens and times of two methods on the questions both have, one entry a question."""

    tokens: np.ndarray
    seconds: np.ndarray
    base_tokens: np.ndarray
    base_seconds: np.ndarray

    @classmethod
    def of(
        cls, method: Mapping[str, Total], base: Mapping[str, Total], unit: Unit = "seconds"
    ) -> Paired:
        """Times in `unit`."""
        shared = [question for question in method if question in base]
        tokens, times = _columns(method, shared, unit)
        base_tokens, base_times = _columns(base, shared, unit)
        return cls(tokens, times, base_tokens, base_times)

    @classmethod
    def fair(cls, method: Mapping[str, Total], base: Mapping[str, Total]) -> Paired:
        """In the unit in which the two compare."""
        seen = drift(method, base)
        return cls.of(method, base, seen.unit if seen else "seconds")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        return self.tokens, self.seconds, self.base_tokens, self.base_seconds

    def ratio(self) -> float:
        """Ratio of totals: tokens a second of all questions together."""
        totals = ratio_of_totals(self.tokens, self.seconds, self.base_tokens, self.base_seconds)
        return float(totals)

    def ratios(self) -> np.ndarray:
        """Each question's own ratio."""
        return (self.tokens / self.seconds) / (self.base_tokens / self.base_seconds)

    def interval(self) -> tuple[float, float]:
        return interval(ratio_of_totals, self.columns)


def _columns(
    totals: Mapping[str, Total], questions: Sequence[str], unit: Unit
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and times, one entry a question."""
    rows = [(totals[question].tokens, getattr(totals[question], unit)) for question in questions]
    table = np.array(rows, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def speed(totals: Mapping[str, Total]) -> float:
    """Tokens a second over all questions; NaN without any."""
    seconds = sum(total.seconds for total in totals.values())
    tokens = sum(total.tokens for total in totals.values())
    return tokens / seconds if seconds else NAN


def mean_accepted_tokens(records: Iterable[Record]) -> float:
    """Tokens emitted a target forward; NaN without a step."""
    emitted = steps = 0
    for record in records:
        emitted += record.emitted
        steps += record.steps
    return emitted / steps if steps else NAN


def drafted_per_step(records: Iterable[Record]) -> float:
    """Mean candidate nodes a step; NaN without a step."""
    nodes = steps = 0
    for record in records:
        nodes += sum(record.draft_lengths)
        steps += len(record.draft_lengths)
    return nodes / steps if steps else NAN


def share(records: Sequence[Record], field: str) -> float:
    """Share of wall time spent in one phase ('draft_time', ...); NaN where engines do not tell."""
    if any(record.is_of_engine for record in records):
        return NAN
    seconds = sum(record.seconds for record in records)
    spent = sum(getattr(record, field) for record in records)
    return spent / seconds if seconds else NAN


def speed_up(method: Mapping[str, Total], base: Mapping[str, Total]) -> SpeedUp:
    """Paired on the questions both have; corrected by the control where drift is seen."""
    seen = drift(method, base)
    timed, pair = Paired.of(method, base), Paired.fair(method, base)
    is_corrected = seen is not None and seen.unit != "seconds"
    low, high = pair.interval()
    return SpeedUp(
        ratio=pair.ratio(),
        low=low,
        high=high,
        mean=float(pair.ratios().mean()),
        questions=len(pair),
        timed=timed.ratio() if is_corrected else None,
        noise=seen.noise if seen else None,
        load=seen.load if seen else None,
        load_error=seen.load_error if seen else 0.0,
    )


def ratio_of_totals(
    tokens: np.ndarray,
    seconds: np.ndarray,
    base_tokens: np.ndarray,
    base_seconds: np.ndarray,
    axis: int = -1,
) -> np.ndarray:
    """(sum tokens / sum seconds) / (the same of the baseline) along `axis`."""
    base_speed = base_tokens.sum(axis) / base_seconds.sum(axis)
    return tokens.sum(axis) / seconds.sum(axis) / base_speed


def interval(
    statistic: Callable[..., Any], columns: tuple[np.ndarray, ...], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % of a statistic: expanded percentile bootstrap over rows, resampled together.

    NaN for fewer than two rows. Of 8 questions the plain percentile interval is wrong in 14 % of
    cases instead of 5, this one in 7 to 8 (Hesterberg 2015, sec. 3.3).
    """
    rows = len(columns[0])
    if rows < 2:
        return NAN, NAN
    quantile = np.sqrt(rows / (rows - 1)) * stats.t.ppf(0.975, rows - 1)
    bootstrap = stats.bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        method="percentile",
        confidence_level=1 - 2 * stats.norm.cdf(-quantile),
        rng=np.random.default_rng(0),
    )
    bounds = bootstrap.confidence_interval
    return float(bounds.low), float(bounds.high)


def original_speed(totals: Mapping[str, Total]) -> float:
    """The published script's speed: mean over questions of tokens / seconds."""
    return float(np.mean([total.tokens / total.seconds for total in totals.values()]))
