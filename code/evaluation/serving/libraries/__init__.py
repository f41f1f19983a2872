"""Engines used as libraries, without a server; one file each, found by being there.

A file defines `LIBRARY`, a subclass of `Library`: it answers requests as `client.Client` does, in
this process. Requests that several threads hand over meanwhile are answered as one batch.
"""

from __future__ import annotations

import importlib
import pkgutil
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ClassVar

from evaluation.serving.client import Reply, ReplyFailed
from evaluation.serving.engines import About
from model.errors import UserError, first_line

GATHERING = 0.005
"""Seconds in which requests of other threads join a batch."""
Job = tuple[dict[str, Any], "Future[Reply]"]


class Library:
    """One engine in this process."""

    engine: ClassVar[str]
    """Whose adapter reads its replies (`engines/`)."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        """Load a model; `options` are the engine's own. Raises UserError where it is not there."""
        self.base_url = f"{self.engine} in this process"
        self._waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def about(self) -> About:
        """Its version and settings."""
        raise NotImplementedError

    def answer(self, bodies: list[dict[str, Any]]) -> list[Reply]:
        """One batch."""
        raise NotImplementedError

    def chat(self, body: dict[str, Any], sent: Callable[[], None] = lambda: None) -> Reply:
        """As `Client.chat`; raises ReplyFailed."""
        sent()
        future: Future[Reply] = Future()
        self._waiting.put((body, future))
        return future.result()

    def is_healthy(self) -> bool:
        return True

    def get(self, path: str) -> None:
        """A library has no pages."""

    def close(self) -> None:
        """Nothing is held that the process's end does not free."""

    def _work(self) -> None:
        while True:
            jobs = [self._waiting.get()]
            time.sleep(GATHERING)
            while not self._waiting.empty():
                jobs.append(self._waiting.get())
            begun = time.perf_counter()
            try:
                replies = self.answer([body for body, _ in jobs])
            except Exception as error:
                failure = ReplyFailed(f"{type(error).__name__}: {first_line(error)}")
                for _, future in jobs:
                    future.set_exception(failure)
                continue
            for (_, future), reply in zip(jobs, replies, strict=True):
                reply.seconds = time.perf_counter() - begun
                future.set_result(reply)


def names() -> list[str]:
    """Every library there is a file for."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str, model: str, options: dict[str, Any]) -> Library:
    """The library called `name`, with a model loaded."""
    if name not in names():
        raise UserError(f"--engine-lib is one of {', '.join(names())}, not '{name}'")
    library: Library = importlib.import_module(f"{__name__}.{name}").LIBRARY(model, options)
    return library
