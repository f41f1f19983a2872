"""Ctrl-C and SIGTERM, from a program's first import on: a word and an exit code, no traceback.

While a program imports, nothing is under way, and it ends at once. Afterwards both become an
`Interrupted`, which unwinds what is under way; a second one ends the program at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], NoReturn]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells have it."""
        return 128 + self.number


def end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"\ninterrupted\n")
    os._exit(128 + number)


def unwind(number: int, frame: FrameType | None) -> NoReturn:
    _listen(end_at_once)
    raise Interrupted(number)


def end_while_importing() -> None:
    """For the time of a program's imports."""
    _listen(end_at_once)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """For the time that it works."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _listen(unwind)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen_again() -> None:
    """After a library has set handlers of its own."""
    _listen(unwind)


def _listen(handler: Handler) -> None:
    for number in SIGNALS:
        # a job in the background ignores Ctrl-C, and goes on doing so
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
