"""Is the last boxed expression equal to the reference answer? math-verify decides.

It runs in a process that can be stopped: math-verify's own timeout is an alarm signal, which works
in the main thread only, and a comparison that hangs (towers of powers, say) would stop a worker for
good.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import logging
import multiprocessing
from concurrent.futures import BrokenExecutor, TimeoutError

from pebble import ProcessExpired, ProcessPool

from evaluation.tasks.boxed import last_boxed
from model.errors import UserError

SECONDS = 10.0
"""A comparison may take; importing sympy, many seconds on a busy machine, does not count."""


def math_equal(text: str, reference: str | None, seconds: float = SECONDS) -> bool | None:
    """None without a reference; no box, and a comparison that never ends, count as wrong.

    Raises UserError where math-verify is not installed.
    """
    if reference is None:
        return None
    boxed = last_boxed(text)
    if not boxed:
        return False
    if boxed == reference.strip():
        return True
    try:
        return _compare(boxed, reference, seconds)
    except BrokenExecutor:  # its death was noticed only now: once more, in a new process
        return _compare(boxed, reference, seconds)


def _compare(boxed: str, reference: str, seconds: float) -> bool:
    if not _grader().active:  # its process was killed while it had nothing to do
        _grader.cache_clear()
    comparison = _grader().schedule(_is_equal, args=[boxed, reference], timeout=seconds)
    try:
        return comparison.result()
    except (TimeoutError, ProcessExpired):
        return False  # pebble has stopped the process, or it died, and another one starts


@functools.cache
def _grader() -> ProcessPool:
    """The process; it ends with this one."""
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("grading mathematics needs math-verify: pip install math-verify")
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=1, context=context, initializer=_start)
    atexit.register(_stop, pool)
    return pool


def _start() -> None:
    """In every new process, before its first comparison is timed."""
    import math_verify  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of its missing time limit


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
