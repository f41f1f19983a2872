"""Going on with a run that was stopped: what is left of it, what Ctrl-C says, and what failed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

from evaluation.records.writer import RecordWriter
from evaluation.tasks import Question
from model.errors import first_line, printable

SOME_FAILED = 3
"""Exit code of a run that went through and has failed generations."""
SHOWN = 5
"""Failed questions named of a run."""


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


def report_failures(writers: Sequence[RecordWriter]) -> int:
    """Name the questions with a failed generation; returns the exit code."""
    code = 0
    for writer in writers:
        failed = writer.failed
        if not failed:
            continue
        code = SOME_FAILED
        print(f"error: {writer.path}: {len(failed)} question(s) failed:", file=sys.stderr)
        for question, error in list(failed.items())[:SHOWN]:
            print(f"    {question}: {printable(first_line(Exception(error)))}", file=sys.stderr)
        if len(failed) > SHOWN:
            print(f"    and {len(failed) - SHOWN} more", file=sys.stderr)
    return code
