"""Datasets, one file each: `questions(subset) -> list[Question]` and `check(text, question) -> bool | None`.

`--bench-name NAME` takes the file of that name; any other name means the question file in `data/NAME/`. A file is
found by being here.
"""

import importlib
import os
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from model.errors import UserError

# where packages travel to other machines, the data folder does not lie beside them
DATA = Path(os.environ.get("SPECTTS_DATA") or Path(__file__).resolve().parents[2] / "data")


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
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in ("hub", "jsonl"))


def load(bench: str, question_file: str | None = None, subset: str = "all") -> tuple[ModuleType, list[Question]]:
    """The task module and its questions; a question file of the user's own is read as task `jsonl`."""
    if subset not in ("all", "published"):
        raise UserError(f"--subset is 'all' or 'published', not '{subset}'")
    if question_file or bench not in names():
        module = importlib.import_module(f"{__name__}.jsonl")
        found = module.questions(Path(question_file) if question_file else _default_file(bench))
        if subset != "all":
            raise UserError("--subset is for the hub's tasks; a question file is cut with --question-begin, --question-end")
    else:
        module = importlib.import_module(f"{__name__}.{bench}")
        found = module.questions(subset)
    seen: set[str] = set()
    for question in found:
        if question.id in seen:
            raise UserError(f"question id {question.id} stands twice; ids must be unique")
        seen.add(question.id)
    if not found:
        raise UserError("the question file holds no questions")
    return module, found


def _default_file(bench: str) -> Path:
    for name in ("question_cot.jsonl", "question.jsonl"):
        if (DATA / bench / name).exists():
            return DATA / bench / name
    raise UserError(f"no task '{bench}' (known: {', '.join(names())}) and no {DATA / bench / 'question_cot.jsonl'}; "
                    f"put a question file there or name one with --question-file")
