"""GSM8K (Cobbe et al. 2021): 1,319 word problems of grade school with whole numbers as answers."""

from evaluation.tasks import Question
from evaluation.tasks.grading import math_equal
from evaluation.tasks.hub import HubDataset
from evaluation.tasks.hub import questions as from_hub

DATASET = HubDataset(
    "gsm8k",
    "openai/gsm8k",
    "e53f048856ff4f594e959d75785d2c2d37b678ee",
    "test",
    published=30,
    config="main",
)
ANSWER_MARK = "####"
"""Before the number that ends a solution."""


def questions(subset: str = "all") -> list[Question]:
    return from_hub(
        DATASET,
        lambda i, row: Question(
            f"gsm8k-{i}",
            "gsm8k",
            row["question"],
            row["answer"].rsplit(ANSWER_MARK, 1)[-1].strip().replace(",", ""),
        ),
        subset,
    )


def check(text: str, question: Question) -> bool | None:
    return math_equal(text, question.answer)
