"""GPQA Diamond (Rein et al. 2023): 198 questions with four options, in an order seeded by the
question's own id.

Gated: its authors ask that no item be published, so it comes with the user's own token and stays in
their cache."""

import hashlib
import re
from random import Random
from typing import Any

from evaluation.tasks import Question
from evaluation.tasks.boxed import last_boxed
from evaluation.tasks.hub import HubDataset
from evaluation.tasks.hub import questions as from_hub

DATASET = HubDataset(
    "gpqa",
    "Idavidrein/gpqa",
    "633f5ee89ab8ad4522a9f850766b73f62147ffdd",
    "train",
    published=30,
    config="gpqa_diamond",
    gated=True,
)
LETTERS = "ABCD"
BOXED_LETTER = re.compile(
    r"\(?\s*(?:\\text(?:bf)?\{)?\s*\(?([A-D])\)?(?:[.:\s].*)?\}?\s*\)?", re.DOTALL
)
STATED_LETTER = re.compile(r"(?i:answer\W{0,12}(?:is|:)?)\W{0,6}([A-D])\b")
ASK = "Answer with the letter of the right option, in \\boxed{}."


def questions(subset: str = "all") -> list[Question]:
    return from_hub(DATASET, question_of, subset)


def question_of(index: int, row: dict[str, Any]) -> Question:
    """The stem with its options restored; the order depends on the record's id alone."""
    identity = row.get("Record ID") or hashlib.sha256(row["Question"].encode()).hexdigest()[:16]
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
    order = list(range(4))
    Random(f"gpqa/{identity}").shuffle(order)
    listed = "\n".join(f"{letter}. {options[i].strip()}" for letter, i in zip(LETTERS, order))
    text = f"{row['Question'].strip()}\n\n{listed}\n\n{ASK}"
    return Question(
        f"gpqa-{identity}",
        "gpqa",
        text,
        LETTERS[order.index(0)],
        {"domain": row.get("High-level domain")},
    )


def check(text: str, question: Question) -> bool | None:
    """The letter in the last box, else of the last 'answer is X'; no letter counts as wrong."""
    if question.answer is None:
        return None
    if question.answer not in LETTERS:  # free text of an option, as in the published question file
        from evaluation.tasks.grading import math_equal

        return math_equal(text, question.answer)
    return letter_of(text) == question.answer


def letter_of(text: str) -> str | None:
    """The option a text decides for, or None."""
    boxed = last_boxed(text)
    if boxed is not None:
        match = BOXED_LETTER.fullmatch(boxed)
        return match.group(1) if match else None
    stated = STATED_LETTER.findall(text)
    return stated[-1] if stated else None
