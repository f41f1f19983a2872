"""Any question file in the published schema: one JSON object a line.

`question_id`, `category` (or `dataset`), the text as `turns[0]` (or `question`), and the answer as
`answer`, else the last `\\boxed{}` of `solution`, else `solution`; without any of them a question
runs but cannot be scored."""

import importlib
from pathlib import Path
from typing import Any

from evaluation.records.reading import json_lines
from evaluation.tasks import Question, names
from evaluation.tasks.boxed import last_boxed
from evaluation.tasks.grading import math_equal
from model.errors import UserError

_KNOWN = {"question_id", "category", "dataset", "turns", "question", "answer", "solution"}


def questions(path: Path) -> list[Question]:
    """Read and check every line; an error names file and line."""
    return [_question(data, where) for where, data in json_lines(path)]


def _question(data: dict[str, Any], where: str) -> Question:
    text = (
        data["turns"][0]
        if isinstance(data.get("turns"), list) and data["turns"]
        else data.get("question")
    )
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f"{where}: a question needs its text in 'turns' (a list with one string) or 'question'"
        )
    if data.get("question_id") is None:
        raise UserError(f"{where}: a question needs a 'question_id'")
    category = data.get("category") or data.get("dataset") or "all"
    extra = {k: v for k, v in data.items() if k not in _KNOWN}
    return Question(str(data["question_id"]), str(category), text, _answer(data), extra)


def _answer(data: dict[str, Any]) -> str | None:
    for key in ("answer", "solution"):
        value = data.get(key)
        if value is not None and str(value).strip():
            boxed = last_boxed(str(value))
            return boxed if boxed is not None else str(value).strip()
    return None


def check(text: str, question: Question) -> bool | None:
    """As the task of the question's category checks (the published file mixes four), else as
    mathematics.
    """
    if question.answer is not None and question.category in names():
        return importlib.import_module(f"evaluation.tasks.{question.category}").check(
            text, question
        )
    return math_equal(text, question.answer)
