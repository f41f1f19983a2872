"""The one loop over questions: warm up, forget what that taught, answer what is not done."""

from __future__ import annotations

from evaluation.records.writer import RecordWriter
from evaluation.running import manifest
from evaluation.running.build import build_run, load_questions
from evaluation.running.progress import Progress
from evaluation.running.resuming import remaining, resumable
from evaluation.running.runner import Runner
from evaluation.running.sharing import Sharing
from evaluation.running.spec import RunSpec
from evaluation.tasks import Question


def run(spec: RunSpec, argv: list[str]) -> int:
    """The whole run in this process, or spread over workers where the specification says so.

    `argv` goes into the manifest. Returns the exit code.
    """
    questions = load_questions(spec.questions)
    if spec.workers.is_pool:
        from evaluation.running.pool import run_pool

        return run_pool(spec, argv, questions)
    runner = build_run(spec, questions)
    written = manifest.build(runner, argv, questions)
    with RecordWriter(spec.path, written, runner.generations) as writer:
        left = remaining(questions, writer)
        progress = Progress(spec.label, len(questions), len(questions) - len(left))
        try:
            with resumable():
                run_questions(runner, left, writer, progress)
        finally:
            progress.close()
    print(f"records: {spec.path}")
    return 0


def run_questions(
    runner: Runner, questions: list[Question], writer: RecordWriter, progress: Progress
) -> None:
    """Answer these questions, each written as soon as it is answered."""
    if questions:
        runner.warm_up(questions[0], progress)
    sharing = Sharing(runner.loaded.model.device)
    try:
        for question in questions:
            records = runner.answer(question, progress)
            writer.append(sharing.mark(records))
            progress.question_done()
    finally:
        sharing.close()
