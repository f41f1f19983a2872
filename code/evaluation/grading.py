"""Is the last boxed expression equal to the reference answer? math-verify decides, in a process that can be stopped.

math-verify's own timeout is an alarm signal, which works in the main thread only; a comparison that hangs (towers of
powers, say) would stop a worker for good. So comparisons run in a child process with a deadline, which is this very
file run as a program: a JSON line in, a JSON line out.
"""

import atexit
import functools
import json
import select
import subprocess
import sys
from pathlib import Path

from evaluation.boxed import last_boxed
from model.errors import UserError

SECONDS = 10.0
START_SECONDS = 120.0  # importing sympy on a busy machine


class Grader:
    """The child process; started when first needed and replaced when it did not answer in time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        atexit.register(self.stop)

    def equal(self, found: str, reference: str, seconds: float) -> bool:
        """False also where there was no answer in time."""
        if self._process is None:
            self._start()
        answer = self._ask([found, reference], seconds)
        if answer is None:
            self.stop()
        return bool(answer)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "evaluation.grading"], text=True,
                                         cwd=Path(__file__).resolve().parents[1], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if self._ask(["1", "1"], START_SECONDS) is None:
            self.stop()
            raise UserError("grading mathematics needs math-verify: pip install math-verify")

    def _ask(self, pair: list[str], seconds: float) -> bool | None:
        try:
            self._process.stdin.write(json.dumps(pair) + "\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], seconds)
            line = self._process.stdout.readline() if ready else ""
        except BrokenPipeError:
            return None
        return json.loads(line) if line else None


@functools.cache
def _grader() -> Grader:
    return Grader()


def math_equal(text: str, reference: str | None, seconds: float = SECONDS) -> bool | None:
    """None without a reference; no box, and a comparison that takes too long, count as wrong."""
    if reference is None:
        return None
    found = last_boxed(text)
    if not found:
        return False
    return found == reference.strip() or _grader().equal(found, reference, seconds)


def serve() -> None:
    """Answer pairs of expressions until the input ends."""
    from math_verify import parse, verify

    for line in sys.stdin:
        try:
            found, reference = (parse(f"\\boxed{{{x}}}", parsing_timeout=None) for x in json.loads(line))
            answer = bool(verify(reference, found, timeout_seconds=None))
        except Exception:  # what math-verify cannot read is not equal
            answer = False
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
