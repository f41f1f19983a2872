"""One progress line on standard error: method, question, live tokens/s and mean accepted tokens."""

import sys
import time

from tqdm import tqdm

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
