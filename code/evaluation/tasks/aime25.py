"""AIME 2025, both papers: 30 problems whose answers are whole numbers from 0 to 999."""

from evaluation.tasks import Question
from evaluation.tasks.grading import math_equal
from evaluation.tasks.hub import HubDataset
from evaluation.tasks.hub import questions as from_hub

DATASET = HubDataset(
    "aime25", "math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", "test", published=30
)


def questions(subset: str = "all") -> list[Question]:
    return from_hub(
        DATASET,
        lambda i, row: Question(
            f"aime25-{row['id']}", "aime25", row["problem"], str(row["answer"])
        ),
        subset,
    )


def check(text: str, question: Question) -> bool | None:
    return math_equal(text, question.answer)
