"""The mini family's own questions: four categories, answers a number or an option's letter."""

from evaluation.tasks import Question, jsonl
from evaluation.tasks.boxed import last_boxed
from model.paths import DATA


def questions(subset: str = "all") -> list[Question]:
    return jsonl.questions(DATA / "mini" / "questions.jsonl")


def check(text: str, question: Question) -> bool | None:
    """Exact rule: the last `\\boxed{}` holds the answer, blanks aside."""
    boxed = last_boxed(text)
    return boxed is not None and boxed.strip() == question.answer
