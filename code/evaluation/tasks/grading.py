"""Is the last boxed expression equal to the reference answer? math-verify decides.

It runs in a process that can be stopped: math-verify's own timeout is an alarm signal, which works
in the main thread only, and a comparison that hangs (towers of powers, say) would stop a worker for
good.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
from concurrent.futures import TimeoutError

from pebble import ProcessPool

from evaluation.tasks.boxed import last_boxed
from model.errors import UserError

SECONDS = 10.0
"""A comparison may take."""
START_SECONDS = 120.0
"""Importing sympy on a busy machine may take."""


def math_equal(text: str, reference: str | None, seconds: float = SECONDS) -> bool | None:
    """None without a reference; no box, and a comparison that takes too long, count as wrong.

    Raises UserError where math-verify is not installed.
    """
    if reference is None:
        return None
    boxed = last_boxed(text)
    if not boxed:
        return False
    if boxed == reference.strip():
        return True
    comparison = _grader().schedule(_is_equal, args=[boxed, reference], timeout=seconds)
    try:
        return comparison.result()
    except TimeoutError:  # pebble has stopped the process, and will start another
        return False


@functools.cache
def _grader() -> ProcessPool:
    """The process, ready; it ends with this one."""
    pool = ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn"))
    atexit.register(_stop, pool)
    try:
        pool.schedule(_is_equal, args=["1", "1"], timeout=START_SECONDS).result()
    except (ImportError, TimeoutError):
        raise UserError("grading mathematics needs math-verify: pip install math-verify") from None
    return pool


def _stop(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


def _is_equal(boxed: str, reference: str) -> bool:
    from math_verify import parse, verify

    try:
        given = parse(f"\\boxed{{{boxed}}}", parsing_timeout=None)
        wanted = parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
        return bool(verify(wanted, given, timeout_seconds=None))
    except Exception:  # what math-verify cannot read is not equal
        return False
