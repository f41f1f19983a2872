"""Datasets, one file each: `questions(subset) -> list[Question]` and `check(text, question)`.

`check` says whether a final answer is right, None where that is not known. `--bench-name NAME`
takes the file of that name; any other name means the question file in `data/NAME/`. A file is found
by being here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from model.errors import UserError
from model.paths import DATA

HELPERS = ("boxed", "grading", "hub", "jsonl")
"""Files here that are no dataset by themselves."""
QUESTION_FILES = ("question_cot.jsonl", "question.jsonl")


@dataclass(frozen=True)
class Question:
    """One question; `answer` is None where none is known."""

    id: str
    category: str
    text: str
    answer: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """Every task there is a file for."""
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name for name in files if name not in HELPERS)


def find(bench: str, question_file: str | None = None) -> ModuleType:
    """The task of that name; `jsonl`, which reads question files, where there is none."""
    is_task = not question_file and bench in names()
    return importlib.import_module(f"{__name__}.{bench if is_task else 'jsonl'}")


def load(
    bench: str, question_file: str | None = None, subset: str = "all"
) -> tuple[ModuleType, list[Question]]:
    """The task and its questions.

    Raises UserError for an unknown subset, a damaged file, repeated ids, or no questions.
    """
    if subset not in ("all", "published"):
        raise UserError(f"--subset is 'all' or 'published', not '{subset}'")
    task = find(bench, question_file)
    if task.__name__.endswith(".jsonl"):
        questions = task.questions(Path(question_file) if question_file else _file_of(bench))
        if subset != "all":
            raise UserError(
                "--subset is for the hub's tasks; a question file is cut with --question-begin,"
                " --question-end"
            )
    else:
        questions = task.questions(subset)
    _check_ids(questions)
    if not questions:
        raise UserError("the question file holds no questions")
    return task, questions


def _check_ids(questions: Iterable[Question]) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise UserError(f"question id {question.id} stands twice; ids must be unique")
        seen.add(question.id)


def _file_of(bench: str) -> Path:
    """The question file in a benchmark's data folder."""
    for name in QUESTION_FILES:
        if (DATA / bench / name).exists():
            return DATA / bench / name
    raise UserError(
        f"no task '{bench}' (known: {', '.join(names())}) and no"
        f" {DATA / bench / QUESTION_FILES[0]}; put a question file there or name one with"
        " --question-file"
    )


def questions_hash(questions: Iterable[Question]) -> str:
    """Of ids, categories, texts and answers, in order."""
    rows = [[q.id, q.category, q.text, q.answer] for q in questions]
    text = json.dumps(rows, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
