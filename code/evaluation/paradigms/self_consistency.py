"""Self-consistency (Wang et al. 2023, arXiv 2203.11171) that ends early: samples of the same prompt
vote with their boxed answers, and once no sample to come can change the winner, none is made.

Votes are counted in the order of the samples, whoever is done first: so every method, and every
number of samples decoded together, keeps the same texts. A sample that is under way then is stopped
where it is.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from evaluation.paradigms import Answer, Ask, Generate, user
from evaluation.tasks.boxed import last_boxed
from model.contract import option

NEEDS_TEMPERATURE = True


@dataclass(frozen=True)
class Config:
    samples: int = option(4, "answers sampled for a question")

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"--samples must be at least 1, not {self.samples}")


def generations(config: Config) -> list[tuple[int, int]]:
    return [(sample, 0) for sample in range(config.samples)]


def run(question: str, generate: Generate, config: Config) -> None:
    asks = [Ask([user(question)], sample) for sample in range(config.samples)]
    generate.until(partial(is_decided, config.samples), asks)


def is_decided(samples: int, answers: Sequence[Answer]) -> bool:
    """Do these first answers of so many samples settle which answer is given most often?

    Of equally frequent answers the first to appear wins, so a rival that appeared later, or has not
    appeared yet, must overtake the leader; one that appeared earlier need only draw level.
    """
    votes: Counter[str] = Counter()
    for answer in answers:
        box = last_boxed(answer.final) if answer.final else None
        if box is not None:
            votes[box] += 1
    to_come = samples - len(answers)
    if not votes or not to_come:
        return not to_come
    leader, most = votes.most_common(1)[0]  # of equals the first to appear
    first_seen = list(votes)
    for rival in first_seen[: first_seen.index(leader)]:
        if votes[rival] + to_come >= most:
            return False
    others = [votes[rival] for rival in first_seen[first_seen.index(leader) + 1 :]]
    return most >= max(others, default=0) + to_come
