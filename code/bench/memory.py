"""Does memory grow over questions? Peak and resident memory over 100 generations: python bench/memory.py

Expected: weights + cache + one step, flat after the first generations.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from evaluation import tasks
from evaluation.prompting import prompt_ids
from model import checkpoint, draft
from model.draft import Request
from model.engine.decode import generate


def resident() -> float:
    """Megabytes of the process now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", default="sam")
    parser.add_argument("--generations", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = checkpoint.load("mini")
    drafter = draft.load(args.method, loaded.target)
    _, questions = tasks.load("mini")
    weights = sum(p.numel() * p.element_size() for p in loaded.target.model.parameters()) / 1e6
    print(f"{args.method}: weights {weights:.0f} MB, resident after loading {resident():.0f} MB")
    for i in range(args.generations):
        ids = prompt_ids(loaded.tokenizer, [{"role": "user", "content": questions[i % len(questions)].text}])
        drafter.enter("question", str(i))
        drafter.enter("request", str(i))
        generate(loaded.target, drafter, Request(ids, 150, temperature=0.6, question_id=str(i)))
        if i + 1 in (1, 5, 10, 25, 50, 75, 100):
            print(f"after {i + 1:3d} generations: resident {resident():.0f} MB, cache {loaded.target.cache.bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
