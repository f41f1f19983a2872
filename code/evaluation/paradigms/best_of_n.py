"""Best-of-N: N independent samples of the same prompt; seeds differ by sample."""

from dataclasses import dataclass

from evaluation.paradigms import Ask, Generate, user
from model.contract import option

NEEDS_TEMPERATURE = True


@dataclass(frozen=True)
class Config:
    samples: int = option(4, "answers sampled for a question")
    bon_prompt: str = option(
        "fresh",
        "'fresh': every sample gets the bare question; 'accumulate': sample j gets the"
        " question j+1 times, as the published benchmark did",
    )

    def __post_init__(self) -> None:
        if self.bon_prompt not in ("fresh", "accumulate"):
            raise ValueError(f"--bon-prompt is 'fresh' or 'accumulate', not '{self.bon_prompt}'")
        if self.samples < 1:
            raise ValueError(f"--samples must be at least 1, not {self.samples}")


def generations(config: Config) -> list[tuple[int, int]]:
    return [(sample, 0) for sample in range(config.samples)]


def run(question: str, generate: Generate, config: Config) -> None:
    asks = []
    for sample in range(config.samples):
        times = sample + 1 if config.bon_prompt == "accumulate" else 1
        asks.append(Ask([user(question)] * times, sample))
    generate.many(asks)
