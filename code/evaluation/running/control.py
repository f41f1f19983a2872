"""The control: a few vanilla steps of fixed shape, timed again and again while a run goes on.

They say how fast the machine is at that moment, whatever is being measured, so that a generation
timed beside other work can be told from a slow method. They take less than 1 % of the run's time.
"""

from __future__ import annotations

import time
from statistics import median

from evaluation.running.meter import waited_seconds
from model.engine.measure import step_seconds
from model.engine.model import Model

CONTEXT = 64
"""Cached tokens: few, so that the step is about the same in every run of a model."""
POSITIONS = CONTEXT + 8
"""Cache rows it needs."""
STEPS = 3
FIRST_STEPS = 15
"""Once, before anything is timed: the first ones are slow."""
SHARE = 0.008
"""Of the time that generations take."""


class Control:
    """Times the target's vanilla step between generations, as often as its share allows."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._is_cpu = model.device.type == "cpu"
        self._credit = 0.0
        self._latest: float | None = None
        self.spent = 0.0
        """Seconds, the first measurement aside."""

    def earn(self, seconds: float) -> None:
        """A generation took so long: a share of that may be spent."""
        self._credit += SHARE * seconds

    def step_time(self) -> float:
        """Seconds of a vanilla step now, without what the step waited for a core.

        The last measurement where a new one is not yet due. No text may be under way.
        """
        if self._latest is None:
            self._latest = self._measure(FIRST_STEPS)
        if self._credit > STEPS * self._latest:
            begun = time.perf_counter()
            self._latest = self._measure(STEPS)
            took = time.perf_counter() - begun
            self._credit -= took
            self.spent += took
        return self._latest

    def _measure(self, steps: int) -> float:
        return median(self._step() for _ in range(steps))

    def _step(self) -> float:
        before = waited_seconds() if self._is_cpu else None
        seconds = step_seconds(self._model, nodes=1, context=CONTEXT)
        after = waited_seconds() if self._is_cpu else None
        if before is None or after is None:
            return seconds
        return max(seconds - (after - before), seconds / 100)
