"""Random steps of every drafter on a small random model, compared with vanilla's text.

    python bench/fuzz.py --steps 100000

Prompts, temperatures, budgets, stop ids, forced endings, scopes and caps are drawn at random from
--seed, and how many texts are made together; some groups are called off half-way. Where a text
differs from vanilla's, made alone, the first mismatch is printed and the exit code is 1.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm import tqdm

from evaluation.command import Parser, run_command, summary
from model import methods
from model.contract import SCOPES, Drafter, Forcing, Request
from model.eagle3.checkpoint import save_head
from model.engine.decode import generate, generate_together
from model.engine.model import Model
from model.engine.sequence import Generation
from model.index import suffix_array
from tests.conftest import VOCAB, qwen3, random_head

COMPOSITES = (
    *("sam[recycling]", "sam[sps]", "blend[recycling]", "blend[sps]", "blend[pld]"),
    *("suffix[recycling]", "suffix[pld]"),
)
CAPS = (1, 2, 4, 9, 100)
"""Most nodes of a draft."""
TOGETHER = (1, 1, 1, 2, 3, 5, 8, 16)
"""Texts of a group."""
ROWS = (2, 10, 1000)
"""Most rows of a step of a group."""
CALLED_OFF = 0.2
"""Share of the groups that end with the first text to end."""


def artefacts(folder: Path, model: Model) -> dict[str, dict[str, Any]]:
    """Options of methods that need a draft model, a head or a datastore, for the random target."""
    qwen3(seed=1, layers=2).save_pretrained(folder / "draft")
    save_head(random_head(model).head, folder / "head")
    documents = [[(3 * i * i + j) % VOCAB for i in range(40)] for j in range(20)]
    suffix_array.build(folder / "store", documents, {"vocab_size": VOCAB, "tokenizer": ""})
    head = {
        "eagle_head": str(folder / "head"),
        "eagle_nodes": 20,
        "eagle_depth": 3,
        "eagle_top_k": 4,
    }
    draft_model = {"sps_model": str(folder / "draft"), "sps_tokens": 6}
    return {
        "sps": draft_model,
        "sam[sps]": draft_model,
        "blend[sps]": draft_model,
        "eagle3": head,
        "sam_eagle3": head,
        "blend_eagle3": head,
        "suffix_eagle3": {**head, "suffix_reach": 2.0},
        "rest": {"rest_datastore": str(folder / "store")},
    }


def load_drafters(model: Model) -> dict[str, Drafter]:
    """Every method but vanilla, and two composites."""
    drafters = {}
    with tempfile.TemporaryDirectory() as folder:
        options = artefacts(Path(folder), model)
        for name in (*methods.names(), *COMPOSITES):
            if name != "vanilla":
                drafters[name] = methods.load(name, model, options.get(name))
    return drafters


def random_request(rng: Random) -> Request:
    """Any request a harness could make."""
    alphabet = rng.choice((4, 12, VOCAB))
    new_tokens = rng.choice((1, 2, 5, 30, 60))
    stop_ids = frozenset(rng.sample(range(VOCAB), rng.choice((0, 1, 3))))
    end_id = rng.randrange(VOCAB)
    after = rng.randrange(1, 40)
    forced_ids = (rng.randrange(VOCAB), end_id, rng.randrange(VOCAB))
    prompt_tokens = rng.choice((1, 2, 3, 20, 80))
    return Request(
        prompt_ids=[rng.randrange(alphabet) for _ in range(prompt_tokens)],
        max_new_tokens=new_tokens,
        temperature=rng.choice((0.0, 0.3, 0.6, 1.0, 1.5)),
        sampling_top_k=rng.choice((0, 0, 5)),
        sampling_top_p=rng.choice((1.0, 1.0, 0.9)),
        seed=rng.randrange(1 << 30),
        question_id=f"q{rng.randrange(5)}",
        stop_ids=stop_ids,
        forcing=Forcing(after, forced_ids, end_id) if rng.random() < 0.3 else None,
    )


@dataclass(frozen=True)
class Group:
    """Requests that are made together, and how."""

    requests: list[Request]
    max_nodes: int
    max_rows: int
    is_called_off: bool

    @classmethod
    def random(cls, rng: Random) -> Group:
        requests = []
        for sample in range(rng.choice(TOGETHER)):
            requests.append(replace(random_request(rng), sample=sample))
        return cls(requests, rng.choice(CAPS), rng.choice(ROWS), rng.random() < CALLED_OFF)

    def made_by(self, model: Model, drafter: Drafter) -> list[Generation]:
        if len(self.requests) == 1:
            return [generate(model, drafter, self.requests[0], max_nodes=self.max_nodes)]
        return generate_together(
            model,
            drafter,
            self.requests,
            self.max_nodes,
            self.max_rows,
            is_enough=(lambda sequences: True) if self.is_called_off else None,
        )


def is_right(made: Generation, vanilla: Generation) -> bool:
    """Vanilla's text, or where it was called off the beginning of it."""
    if made.finish_reason == "unneeded":
        return made.output_ids == vanilla.output_ids[: len(made.output_ids)]
    return (made.output_ids, made.finish_reason) == (vanilla.output_ids, vanilla.finish_reason)


def fuzz(steps: int, rng: Random, model: Model) -> tuple[Counter[str], str]:
    """Steps made by each method, and what the first mismatch was (empty: none)."""
    vanilla = methods.load("vanilla", model)
    drafters = load_drafters(model)
    made: Counter[str] = Counter()
    with tqdm(total=steps, unit="step") as bar:
        while made.total() < steps:
            group = Group.random(rng)
            expected = [generate(model, vanilla, request) for request in group.requests]
            for name, drafter in drafters.items():
                drafter.remember(rng.choice(SCOPES))
                key = group.requests[0].question_id
                drafter.enter(rng.choice(("question", "request")), key)
                generations = group.made_by(model, drafter)
                for generation, right in zip(generations, expected, strict=True):
                    if not is_right(generation, right):
                        texts = f"{generation.output_ids}\n{right.output_ids}"
                        return made, f"{name}, {group}\n{texts}"
                    made[name] += len(generation.accept_lengths)
                    bar.update(len(generation.accept_lengths))
    return made, ""


def main() -> int:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made, mismatch = fuzz(args.steps, Random(args.seed), Model(qwen3()))
    if mismatch:
        print(f"MISMATCH: {mismatch}")
        return 1
    by_method = [f"{name} {steps}" for name, steps in made.items()]
    print(f"{made.total()} steps, no mismatch: {', '.join(by_method)}")
    return 0


if __name__ == "__main__":
    run_command(main)()
