"""MATH-500 (Lightman et al. 2023, from Hendrycks et al. 2021): 500 problems with LaTeX answers."""

from evaluation.tasks import Question
from evaluation.tasks.grading import math_equal
from evaluation.tasks.hub import HubDataset
from evaluation.tasks.hub import questions as from_hub

DATASET = HubDataset(
    "math500",
    "HuggingFaceH4/MATH-500",
    "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    "test",
    published=30,
)


def questions(subset: str = "all") -> list[Question]:
    return from_hub(
        DATASET,
        lambda i, row: Question(
            f"math500-{i}",
            "math500",
            row["problem"],
            row["answer"],
            {"subject": row["subject"], "level": row["level"], "unique_id": row["unique_id"]},
        ),
        subset,
    )


def check(text: str, question: Question) -> bool | None:
    return math_equal(text, question.answer)
