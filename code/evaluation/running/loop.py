"""The one loop over questions: warm up, forget what that taught, answer what is not done.

Several methods take turns at every question (`turns.py`).
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.records.writer import RecordWriter
from evaluation.running import manifest
from evaluation.running.build import build_runs
from evaluation.running.progress import Progress
from evaluation.running.questions import load_questions
from evaluation.running.resuming import remaining, report_failures, resumable
from evaluation.running.runner import Runner
from evaluation.running.sharing import Sharing
from evaluation.running.spec import RunSpec
from evaluation.running.turns import answer, collect_garbage, listener, rotated
from evaluation.tasks import Question


@dataclass(frozen=True)
class Turn:
    """One method's part of the loop: who answers, and where its records go."""

    runner: Runner
    writer: RecordWriter

    @property
    def method(self) -> str:
        return self.runner.spec.method.name


def run(specs: Sequence[RunSpec], argv: list[str]) -> int:
    """The whole run in this process, or spread over workers where the specifications say so.

    Several specifications differ in their methods and records files alone. `argv` goes into the
    manifests. Returns the exit code: 3 where a generation has failed.
    """
    questions = load_questions(specs[0].questions)
    if specs[0].workers.is_pool:
        from evaluation.running.pool import run_pool

        return run_pool(specs, argv, questions)
    runners = build_runs(specs, questions)
    with contextlib.ExitStack() as files:
        turns = []
        for runner in runners:
            written = manifest.build(runner, argv, questions)
            writer = RecordWriter(runner.spec.path, written, runner.generations)
            turns.append(Turn(runner, files.enter_context(writer)))
        left = sum(len(remaining(questions, turn.writer)) for turn in turns)
        total = len(questions) * len(turns)
        progress = Progress(label(specs), total, total - left)
        try:
            with resumable():
                run_questions(turns, questions, progress)
        finally:
            progress.close()
    return report_failures([turn.writer for turn in turns])


def label(specs: Sequence[RunSpec]) -> str:
    """What the progress line calls the run."""
    if len(specs) == 1:
        return specs[0].label
    return specs[0].label.replace(specs[0].method.name, f"{len(specs)} methods", 1)


def run_questions(turns: Sequence[Turn], questions: list[Question], progress: Progress) -> None:
    """Answer what is left of these questions, each written as soon as it is answered."""
    for turn in turns:
        if left := waiting(turn, questions):
            turn.runner.warm_up(left[0], listener(turn.runner, progress))
    sharing = Sharing(turns[0].runner.loaded.model.device)
    try:
        for number, question in enumerate(questions):
            collect_garbage()
            asked = [turn for turn in turns if question.id not in turn.writer.done]
            methods = tuple(turn.method for turn in asked)
            for turn in rotated(asked, number):
                records = answer(turn.runner, question, methods, progress)
                turn.writer.append(sharing.mark(records))
                progress.question_done()
    finally:
        sharing.close()
        gc.unfreeze()


def waiting(turn: Turn, questions: list[Question]) -> list[Question]:
    """The questions a method has not answered."""
    return [question for question in questions if question.id not in turn.writer.done]
