"""Was the machine as fast for a method as for vanilla, and in which unit do their times compare?

Records tell, where the system does, how long a generation waited for a core: that is taken off
exactly. They tell too how long a vanilla step of fixed shape took around the generation: divided by
it, a time is one in control steps, which a slower or faster machine leaves alone. The control is a
sample, though. It is used where it makes vanilla's own speed steadier, or clearly differs between
two methods; elsewhere it would only add its own noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluation.records.totals import Total

Unit = Literal["seconds", "ran", "control_steps"]
"""Of a question's time, by the name it has in its totals."""
EXPLAINED = 0.8
"""The control explains vanilla's variation where it makes it smaller than this share of it."""
FEWEST = 6
"""Questions for that: of fewer, a standard deviation says nothing."""
SEEN_WAIT = 0.01
"""Share of the time that was waited, from which on it is taken off."""
SEEN_LOAD = 0.25
"""Control steps of two methods that differ by more than this (in logarithm) are corrected for,
where that is also more than three standard errors. Methods in turn differ by up to 0.2 by the
control's own sampling (measured beside a load that came and went)."""
ERRORS = 3.0
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Drift:
    """How the machine changed while a method and its baseline ran, on the questions both have."""

    questions: int
    unit: Unit
    """In which their times compare: `seconds` where nothing was seen."""
    spread: float
    """Variation of the baseline's time a token from question to question in that unit (standard
    deviation of its logarithm); NaN for fewer than two questions."""
    load: float | None
    """The control step's time, waits counted, while the method ran, over its time while the
    baseline did; None where no control was recorded."""
    load_error: float = 0.0
    """Three standard errors of its logarithm."""

    @property
    def noise(self) -> float | None:
        """How far apart two equal methods could be on so many questions (95 %), as a share.

        None for fewer than two questions.
        """
        if np.isnan(self.spread):
            return None
        # each of the two is known to within spread / sqrt(n)
        return float(np.expm1(NORMAL_95 * np.sqrt(2 / self.questions) * self.spread))


@dataclass(frozen=True)
class Column:
    """What one method's questions took, one entry a question."""

    tokens: np.ndarray
    seconds: np.ndarray
    ran: np.ndarray
    steps: np.ndarray | None
    """In control steps; None where one is not known."""

    @classmethod
    def of(cls, totals: Mapping[str, Total], questions: list[str]) -> Column:
        chosen = [totals[question] for question in questions]
        steps = [total.control_steps for total in chosen if total.control_steps]
        return cls(
            tokens=np.array([max(1, total.tokens) for total in chosen], dtype=float),
            seconds=np.array([total.seconds for total in chosen]),
            ran=np.array([total.ran for total in chosen]),
            steps=np.array(steps) if len(steps) == len(chosen) else None,
        )

    @property
    def waited(self) -> float:
        """Share of the time that was waited for a core."""
        return float(1 - self.ran.sum() / self.seconds.sum())

    def spread(self, unit: Unit) -> float:
        """Variation of the time a token."""
        return _deviation(self._times(unit) / self.tokens)

    def step(self, unit: Unit) -> float:
        """A control step's time, on average."""
        return float(self._times(unit).sum() / self._times("control_steps").sum())

    def step_spread(self, unit: Unit) -> float:
        """Variation of a control step's time."""
        return _deviation(self._times(unit) / self._times("control_steps"))

    def _times(self, unit: Unit) -> np.ndarray:
        times = {"seconds": self.seconds, "ran": self.ran, "control_steps": self.steps}[unit]
        assert times is not None
        return times


def drift(method: Mapping[str, Total], base: Mapping[str, Total]) -> Drift | None:
    """Between a method and its baseline; None where they share no question."""
    shared = [question for question in method if question in base]
    if not shared:
        return None
    ours, theirs = Column.of(method, shared), Column.of(base, shared)
    unit: Unit = "ran" if max(ours.waited, theirs.waited) > SEEN_WAIT else "seconds"
    load = None
    if ours.steps is not None and theirs.steps is not None:
        load = ours.step("seconds") / theirs.step("seconds")
        speeds = abs(np.log(ours.step("ran") / theirs.step("ran")))
        is_different = speeds > max(SEEN_LOAD, _error(ours, theirs, "ran"))
        if is_different or _is_explained(theirs, unit):
            unit = "control_steps"
    error = _error(ours, theirs, "seconds") if load else 0.0
    return Drift(len(shared), unit, theirs.spread(unit), load, error)


def _error(ours: Column, theirs: Column, unit: Unit) -> float:
    """ERRORS standard errors of the logarithm of two control steps' ratio; infinite for
    fewer than FEWEST questions, of which the control's few samples say nothing."""
    if len(ours.tokens) < FEWEST:
        return float("inf")
    first, second = ours.step_spread(unit), theirs.step_spread(unit)
    return ERRORS * float(np.hypot(first, second)) / len(ours.tokens) ** 0.5


def _is_explained(base: Column, unit: Unit) -> bool:
    """Does the control make the baseline's own speed steadier?"""
    if len(base.tokens) < FEWEST:
        return False
    return base.spread("control_steps") < EXPLAINED * base.spread(unit)


def _deviation(values: np.ndarray) -> float:
    """Standard deviation of the logarithm; NaN for fewer than two values."""
    return float(np.log(values).std(ddof=1)) if len(values) > 1 else float("nan")
