"""Random steps of every drafter on a small random model, compared with vanilla's text: python bench/fuzz.py --steps 100000

Prompts, temperatures, budgets, stop ids, forced endings, scopes and caps are drawn at random from --seed. Ends with
exit code 1 and the first mismatch where a text differs.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from random import Random

CODE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CODE))

import torch
from tqdm import tqdm

from model import draft
from model.draft import LEVELS, Forcing, Request
from model.eagle3.checkpoint import save_head
from model.engine.decode import generate
from model.engine.target import Target
from model.index import suffix_array
from tests.conftest import VOCAB, qwen3, random_head


def artefacts(folder: Path, target: Target) -> dict[str, dict]:
    """A draft model, a head and a datastore for the random target."""
    qwen3(seed=1, layers=2).save_pretrained(folder / "draft")
    save_head(random_head(target).head, folder / "head")
    documents = [[(3 * i * i + j) % VOCAB for i in range(40)] for j in range(20)]
    suffix_array.build(folder / "store", documents, {"vocab_size": VOCAB, "tokenizer": ""})
    head = {"ea_model_path": str(folder / "head"), "total_token": 20, "depth": 3, "top_k": 4}
    return {"sps": {"drafter_path": str(folder / "draft"), "draft_tokens": 6}, "eagle3": head, "sam_eagle3": head,
            "rest": {"datastore_path": str(folder / "store")}}


def random_request(rng: Random) -> Request:
    """Any request a harness could make."""
    alphabet = rng.choice((4, 12, VOCAB))
    new = rng.choice((1, 2, 5, 30, 60))
    stops = frozenset(rng.sample(range(VOCAB), rng.choice((0, 1, 3))))
    end = rng.randrange(VOCAB)
    forcing = Forcing(rng.randrange(1, 40), (rng.randrange(VOCAB), end, rng.randrange(VOCAB)), end)
    return Request([rng.randrange(alphabet) for _ in range(rng.choice((1, 2, 3, 20, 80)))], new,
                   rng.choice((0.0, 0.3, 0.6, 1.0, 1.5)), rng.choice((0, 0, 5)), rng.choice((1.0, 1.0, 0.9)),
                   rng.randrange(1 << 30), f"q{rng.randrange(5)}", stop_ids=stops,
                   forcing=forcing if rng.random() < 0.3 else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rng, target = Random(args.seed), Target(qwen3())
    vanilla = draft.load("vanilla", target)
    done = {}
    with tempfile.TemporaryDirectory() as folder:
        options = artefacts(Path(folder), target)
        methods = [n for n in draft.names() if n != "vanilla"] + ["sam[recycling]", "sam[sps]"]
        drafters = {n: draft.load(n, target, options.get(n, options.get("sps") if "sps" in n else None)) for n in methods}
        with tqdm(total=args.steps, unit="step") as bar:
            while sum(done.values()) < args.steps:
                request, cap = random_request(rng), rng.choice((1, 2, 4, 9, 100))
                expected = generate(target, vanilla, request)
                for name, drafter in drafters.items():
                    drafter.remember(rng.choice(LEVELS))
                    drafter.enter(rng.choice(("question", "request")), request.question_id)
                    found = generate(target, drafter, request, max_nodes=cap)
                    if (found.output_ids, found.finish_reason) != (expected.output_ids, expected.finish_reason):
                        print(f"MISMATCH: {name}, cap {cap}, {request}\n{found.output_ids}\n{expected.output_ids}")
                        return 1
                    done[name] = done.get(name, 0) + len(found.accept_lengths)
                    bar.update(len(found.accept_lengths))
    print(f"{sum(done.values())} steps, no mismatch: " + ", ".join(f"{n} {c}" for n, c in done.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
