"""One progress line on standard error: method, question, live tokens/s and mean accepted tokens."""

import sys
import time
from typing import Any

from tqdm import tqdm

from evaluation.records import Record
from model.engine.decode import Sequence


class Progress:
    """A bar over questions; `step` is called after every engine step and costs a clock read."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self._interactive = sys.stderr.isatty()
        self._every = 0.3 if self._interactive else 15.0
        self._bar = tqdm(total=total, initial=done, desc=label, unit="q", file=sys.stderr, dynamic_ncols=True,
                         mininterval=self._every, maxinterval=self._every)
        self._next = 0.0
        self._what = ""

    def generation(self, what: str) -> None:
        """A generation begins; `what` names question, sample and round."""
        self._what, self._begun = what, time.perf_counter()

    def step(self, sequence: Sequence) -> None:
        now = time.perf_counter()
        if now < self._next:
            return
        self._next = now + self._every
        steps = sequence.accept_lengths
        rate = len(sequence.ids) / max(now - self._begun, 1e-9)
        self._bar.set_postfix_str(f"{self._what} {rate:.0f} tok/s MAT {sum(steps) / len(steps):.2f}", refresh=True)

    def question_done(self) -> None:
        self._bar.update(1)

    def close(self) -> None:
        self._bar.close()


class PoolProgress:
    """One bar for all workers: questions done, tokens/s of finished questions, and what each worker is at."""

    def __init__(self, label: str, total: int, done: int, ray: Any) -> None:
        self._ray = ray
        every = 1.0 if sys.stderr.isatty() else 15.0
        self._bar = tqdm(total=total, initial=done, desc=label, unit="q", file=sys.stderr, dynamic_ncols=True,
                         mininterval=every, maxinterval=every)
        self._every, self._next, self._begun, self._tokens = every, 0.0, time.perf_counter(), 0

    def question_done(self, records: list[Record]) -> None:
        self._tokens += sum(r.new_tokens or 0 for r in records)
        self._bar.update(1)

    def show(self, statuses: list[Any]) -> None:
        """Ask busy workers what they are at, now and then; a worker that does not answer is left out."""
        now = time.perf_counter()
        if now < self._next:
            return
        self._next = now + self._every
        futures = [status.remote() for status in statuses]
        ready, _ = self._ray.wait(futures, num_returns=len(futures), timeout=0.2) if futures else ([], [])
        found = []
        for future in ready:
            try:
                found.append(self._ray.get(future))
            except Exception:  # the worker died meanwhile; its question's future says so
                continue
        rate = self._tokens / (now - self._begun)
        self._bar.set_postfix_str(f"{rate:.0f} tok/s in all | " + " | ".join(found), refresh=True)

    def say(self, text: str) -> None:
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
