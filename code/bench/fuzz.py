"""Random steps of every drafter on a small random model, compared with vanilla's text.

    python bench/fuzz.py --steps 100000

Prompts, temperatures, budgets, stop ids, forced endings, scopes and caps are drawn at random from
--seed. Where a text differs, the first mismatch is printed and the exit code is 1.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
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
from model.engine.decode import generate
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


def is_same(one: Generation, other: Generation) -> bool:
    is_same_text = one.output_ids == other.output_ids
    return is_same_text and one.finish_reason == other.finish_reason


def fuzz(steps: int, rng: Random, model: Model) -> tuple[Counter[str], str]:
    """Steps made by each method, and what the first mismatch was (empty: none)."""
    vanilla = methods.load("vanilla", model)
    drafters = load_drafters(model)
    made: Counter[str] = Counter()
    with tqdm(total=steps, unit="step") as bar:
        while made.total() < steps:
            request, cap = random_request(rng), rng.choice(CAPS)
            expected = generate(model, vanilla, request)
            for name, drafter in drafters.items():
                drafter.remember(rng.choice(SCOPES))
                drafter.enter(rng.choice(("question", "request")), request.question_id)
                generation = generate(model, drafter, request, max_nodes=cap)
                if not is_same(generation, expected):
                    texts = f"{generation.output_ids}\n{expected.output_ids}"
                    return made, f"{name}, cap {cap}, {request}\n{texts}"
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
