"""Samples decoded together against one at a time, by method; and against Hugging Face's `generate`.

    python bench/together.py [--threads 1] [--tokens 150] [--together 4 8]

On the mini target at temperature 0.6. All numbers of a method take turns on the same questions;
medians of the paired ratios of tokens a second are printed. Asserts that the texts do not depend on
how many run together. Hugging Face samples as many sequences of one prompt in one batch.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from evaluation import tasks
from evaluation.command import Parser, run_command, summary
from evaluation.paradigms import user
from evaluation.running.prompting import prompt_ids
from model import checkpoint, methods
from model.contract import Drafter, Request
from model.engine.decode import generate_together
from model.engine.model import Model
from model.network import source

TEMPERATURE = 0.6
NODES = 8
"""Of a draft: what pays on a CPU."""
METHODS: dict[str, dict[str, object]] = {
    "vanilla": {},
    "sam": {},
    "stand": {},
    "eagle3": {"eagle_depth": 5, "eagle_top_k": 1},
}
"""And their options."""


@dataclass(frozen=True)
class Run:
    """So many samples of one question, together."""

    texts: list[list[int]]
    seconds: float
    draft: float
    """Share of the time."""
    loop: float
    """Share of the time outside prefill, draft, verify and accept."""

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return sum(len(text) for text in self.texts) / self.seconds


def ours(model: Model, drafter: Drafter, prompt: list[int], tokens: int, together: int) -> Run:
    """A question that nothing is remembered of."""
    drafter.enter("run", "bench")
    drafter.enter("question", "bench")
    requests = [
        Request(prompt, tokens, TEMPERATURE, question_id="bench", sample=sample)
        for sample in range(together)
    ]
    begun = perf_counter()
    made = generate_together(model, drafter, requests, NODES)
    seconds = perf_counter() - begun
    times = made[0].times
    texts = [generation.output_ids for generation in made]
    return Run(texts, seconds, times.draft / times.wall, times.other / times.wall)


def hugging_face_speed(
    network: PreTrainedModel, prompt: list[int], tokens: int, together: int
) -> float:
    """Tokens a second of as many sampled sequences."""
    begun = perf_counter()
    with torch.inference_mode():
        network.generate(
            torch.tensor([prompt]),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            num_return_sequences=together,
            eos_token_id=None,
            pad_token_id=0,
        )
    return together * tokens / (perf_counter() - begun)


def method_rows(
    model: Model, name: str, prompts: list[list[int]], tokens: int, numbers: list[int]
) -> None:
    """One method: a line a number. The first prompt warms up."""
    drafter = methods.load(name, model, METHODS[name])
    rounds = []
    for prompt in prompts:
        runs = {number: ours(model, drafter, prompt, tokens, number) for number in numbers}
        for run in runs.values():
            shared = min(len(run.texts), len(runs[numbers[-1]].texts))
            assert run.texts[:shared] == runs[numbers[-1]].texts[:shared], "texts differ"
        rounds.append(runs)
    rounds = rounds[1:]
    for number in numbers:
        ratio = median(runs[number].speed / runs[1].speed for runs in rounds)
        speed = median(runs[number].speed for runs in rounds)
        draft = median(runs[number].draft for runs in rounds)
        loop = median(runs[number].loop for runs in rounds)
        print(
            f"{name:8s} {number:3d} together {speed:7.1f} tokens/s, {ratio:.2f}x of one"
            f"  (drafting {draft:.1%}, loop {loop:.1%})",
            flush=True,
        )


def against_hugging_face(
    model: Model,
    network: PreTrainedModel,
    prompts: list[list[int]],
    tokens: int,
    numbers: list[int],
) -> None:
    """Vanilla, in turn with Hugging Face's batch."""
    drafter = methods.load("vanilla", model)
    for number in numbers:
        ratios = []
        for prompt in prompts:
            theirs = hugging_face_speed(network, prompt, tokens, number)
            ratios.append(ours(model, drafter, prompt, tokens, number).speed / theirs)
        ratio = median(ratios[1:])
        print(f"vanilla  {number:3d} together, {ratio:.2f}x of Hugging Face's generate", flush=True)


def main() -> None:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--together", type=int, nargs="+", default=[4, 8], metavar="P")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = checkpoint.load("mini", "float32")
    where = source(checkpoint.resolve("mini"))
    network = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    _, questions = tasks.load("mini")
    prompts = [
        prompt_ids(loaded.tokenizer, [user(question.text)])
        for question in questions[: args.rounds + 1]
    ]
    print(
        f"{args.threads} thread(s), {loaded.model.engine}, T = {TEMPERATURE}, {args.tokens}"
        f" tokens a sample, drafts of {NODES} nodes, median of {args.rounds} questions"
    )
    numbers = sorted({1, *args.together})
    for name in METHODS:
        method_rows(loaded.model, name, prompts, args.tokens, numbers)
    against_hugging_face(loaded.model, network, prompts, args.tokens, numbers)


if __name__ == "__main__":
    run_command(main)()
