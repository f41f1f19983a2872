"""Multi-round thinking: every round asks the question again and quotes the previous round's final
answer.

Thoughts are not carried over. Where a round never ended its thinking there is nothing to quote, and
the bare question is asked again (as in the published benchmark)."""

from dataclasses import dataclass

from evaluation.paradigms import Generate, user
from model.contract import option


@dataclass(frozen=True)
class Config:
    rounds: int = option(2, "rounds of thinking for a question")

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"--rounds must be at least 1, not {self.rounds}")


def generations(config: Config) -> list[tuple[int, int]]:
    return [(0, round) for round in range(config.rounds)]


def second_round_message(question: str, answer: str) -> str:
    """What rounds after the first ask; the mini family is trained on these very words."""
    return (
        f"{question}\nI have worked on this problem once before and want to verify the result."
        f" My earlier answer was: <answer> {answer} </answer>. Please solve the problem again."
    )


def run(question: str, generate: Generate, config: Config) -> None:
    message = question
    for round in range(config.rounds):
        answer = generate([user(message)], round=round)
        message = second_round_message(question, answer.final) if answer.final else question
