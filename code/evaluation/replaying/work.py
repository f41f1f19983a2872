"""Spreading a replay's questions over processes, in order and with Ctrl-C as everywhere."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice

from evaluation.replaying.plan import Plan
from evaluation.replaying.replayer import QuestionResult, Replayer

AHEAD = 4
"""Questions a process is given ahead: results are taken in order, and wait in memory."""

_replayer: Replayer | None = None
"""Of a worker process."""


def results(plan: Plan, workers: int) -> Iterator[QuestionResult]:
    """Every question's result, in the order of the corpus. Raises what a replay raises."""
    names = list(plan.corpus.questions)
    if workers == 1:
        replayer = Replayer(plan)
        for name in names:
            yield replayer.question(name)
        return
    # a new process each: a fork would inherit the threads of PyTorch's
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(plan,))
    try:
        waiting = iter(names)
        under_way: list[Future[QuestionResult]] = []
        for name in islice(waiting, AHEAD * workers):
            under_way.append(pool.submit(_question, name))
        while under_way:
            yield under_way.pop(0).result()
            for name in islice(waiting, 1):
                under_way.append(pool.submit(_question, name))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(plan: Plan) -> None:
    global _replayer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the run
    _replayer = Replayer(plan)


def _question(name: str) -> QuestionResult:
    assert _replayer is not None
    return _replayer.question(name)
