"""Going on with a run that was stopped: what is left of it, and what Ctrl-C says."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from evaluation.records.writer import RecordWriter
from evaluation.tasks import Question


def remaining(questions: list[Question], writer: RecordWriter) -> list[Question]:
    """The questions without records; says what the records file was found to hold."""
    for notice in writer.notices:
        print(notice)
    left = [question for question in questions if question.id not in writer.done]
    done = len(questions) - len(left)
    if done:
        print(f"{writer.path}: {done} of {len(questions)} questions are done already")
    return left


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """While records are written: Ctrl-C says that they are kept, and ends the run."""
    try:
        yield
    except KeyboardInterrupt:
        print("\nfinished questions are saved, the same command goes on", file=sys.stderr)
        raise
