"""AIME 2024, both papers: 30 problems whose answers are whole numbers from 0 to 999."""

from evaluation.tasks import Question
from evaluation.tasks.grading import math_equal
from evaluation.tasks.hub import HubDataset
from evaluation.tasks.hub import questions as from_hub

DATASET = HubDataset(
    "aime24",
    "HuggingFaceH4/aime_2024",
    "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    "train",
    published=30,
)


def questions(subset: str = "all") -> list[Question]:
    return from_hub(
        DATASET,
        lambda i, row: Question(
            f"aime24-{row['id']}", "aime24", row["problem"], str(row["answer"])
        ),
        subset,
    )


def check(text: str, question: Question) -> bool | None:
    return math_equal(text, question.answer)
