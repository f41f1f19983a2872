"""The published benchmark's answer files: one line a question, its generations as turns.

Prompts are not in them; `--question-file` gives the questions.
"""

from __future__ import annotations

from typing import Any

from evaluation.replaying.formats import ReadOptions, text
from evaluation.replaying.trace import Fields, Trace
from model.errors import UserError

RANK = 1
FAILED = "ERROR"
"""What the published harness writes in place of a turn that failed."""


def matches(data: dict[str, Any], fields: Fields) -> bool:
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        return False
    return isinstance(choices[0], dict) and "turns" in choices[0]


def read(data: dict[str, Any], where: str, options: ReadOptions) -> list[Trace]:
    try:
        question, choices = str(data["question_id"]), data["choices"]
        turns_of = [choice["turns"] for choice in choices]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{where}: not a line of the published trace format: {error!r} is missing"
        ) from None
    traces = []
    for choice, turns in enumerate(turns_of):
        if not isinstance(turns, list):
            raise UserError(f"{where}: 'turns' must be a list of texts")
        for number, turn in enumerate(turns):
            if turn == FAILED:
                continue
            is_sample = options.paradigm == "best_of_n"
            traces.append(
                Trace(
                    where=where,
                    question_id=question,
                    prompt="",
                    text=text(turn, where, "turns"),
                    model=str(data.get("model_id", "")),
                    sample=number if is_sample else 0,
                    round=0 if is_sample else number,
                    choice=choice,
                    category=str(data.get("category", "all")),
                )
            )
    return traces
