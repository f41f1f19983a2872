"""The questions that a run is asked."""

from __future__ import annotations

from evaluation import tasks
from evaluation.running.spec import QuestionsSpec
from evaluation.tasks import Question
from model.errors import UserError


def load_questions(spec: QuestionsSpec) -> list[Question]:
    """The questions asked for; raises UserError where there are none."""
    every = tasks.load(spec.bench, spec.question_file, spec.subset)[1]
    chosen = every[spec.begin : spec.end]
    if not chosen:
        raise UserError(
            f"--question-begin {spec.begin} --question-end {spec.end} leaves none of the"
            f" {len(every)} questions"
        )
    return chosen
