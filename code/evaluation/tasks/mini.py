"""The mini family's own questions: four categories, answers a whole number or an option's letter."""

from evaluation.boxed import last_boxed
from evaluation.tasks import DATA, Question, jsonl


def questions(subset: str = "all") -> list[Question]:
    return jsonl.questions(DATA / "mini" / "questions.jsonl")


def check(text: str, question: Question) -> bool | None:
    """Exact rule: the last `\\boxed{}` holds the answer, blanks aside."""
    boxed = last_boxed(text)
    return boxed is not None and boxed.strip() == question.answer
