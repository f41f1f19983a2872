"""One progress line on standard error: method, question, live tokens a second and MAT."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence as Items

from tqdm import tqdm

from evaluation.records.schema import Record
from model.engine.sequence import Sequence

QUIET_SECONDS = 15.0
"""Between two lines where nobody watches: in a file, or through a pipe."""


class Status:
    """What a process is at, in words: question, speed, MAT."""

    def __init__(self) -> None:
        self._name = ""
        self._begun = 0.0

    def generation(self, name: str) -> None:
        """A generation begins; `name` tells question, sample and round."""
        self._name, self._begun = name, time.perf_counter()

    def text(self, sequence: Sequence) -> str:
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        steps = sequence.accept_lengths
        speed, mat = len(sequence.ids) / seconds, sum(steps) / len(steps)
        return f"{self._name} {speed:.0f} tok/s MAT {mat:.2f}"


def bar(label: str, total: int, done: int, every: float | None = None, unit: str = "q") -> tqdm:
    """A line on standard error; where nobody watches, a new one every QUIET_SECONDS."""
    if every is None:
        every = 0.3 if sys.stderr.isatty() else QUIET_SECONDS
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=unit,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=every,
        maxinterval=every,
    )


class Progress:
    """A bar over questions; `step` is called after every engine step and costs a clock read."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self._every = 0.3 if sys.stderr.isatty() else QUIET_SECONDS
        self._bar = bar(label, total, done, self._every)
        self._status = Status()
        self._next = 0.0

    def generation(self, name: str) -> None:
        self._status.generation(name)

    def step(self, sequence: Sequence) -> None:
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + self._every
            self._bar.set_postfix_str(self._status.text(sequence), refresh=True)

    def question_done(self) -> None:
        self._bar.update(1)

    def close(self) -> None:
        self._bar.close()


class PoolProgress:
    """One bar for all workers: questions done, their tokens a second, what each worker is at."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self._every = 1.0 if sys.stderr.isatty() else QUIET_SECONDS
        self._bar = bar(label, total, done, self._every)
        self._next, self._begun, self._tokens = 0.0, time.perf_counter(), 0

    def question_done(self, records: list[Record]) -> None:
        self._tokens += sum(record.tokens for record in records)
        self._bar.update(1)

    def is_due(self) -> bool:
        """Is it time to ask the workers what they are at?"""
        now = time.perf_counter()
        if now < self._next:
            return False
        self._next = now + self._every
        return True

    def show(self, statuses: Items[str]) -> None:
        speed = self._tokens / (time.perf_counter() - self._begun)
        parts = [f"{speed:.0f} tok/s in all", *statuses]
        self._bar.set_postfix_str(" | ".join(parts), refresh=True)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
