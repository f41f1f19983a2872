"""Does memory grow over questions? Resident memory over 100 generations.

    python bench/memory.py [--method sam] [--generations 100]

Expected: weights + cache + one step, flat after the first generations.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from evaluation import tasks
from evaluation.command import Parser, run_command, summary
from evaluation.paradigms import user
from evaluation.running.prompting import prompt_ids
from model import checkpoint, methods
from model.contract import Request
from model.engine.decode import generate

SHOWN = (1, 5, 10, 25, 50, 75, 100)
"""Generations after which memory is printed."""
NEW_TOKENS = 150
PAGE_BYTES = 4096


def resident() -> float:
    """Megabytes of the process now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * PAGE_BYTES / 1e6


def main() -> None:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("--method", default="sam")
    parser.add_argument("--generations", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = checkpoint.load("mini")
    model = loaded.model
    drafter = methods.load(args.method, model)
    _, questions = tasks.load("mini")
    weights = sum(weight.numel() * weight.element_size() for weight in model.network.parameters())
    print(
        f"{args.method}: weights {weights / 1e6:.0f} MB, resident after loading {resident():.0f} MB"
    )
    for i in range(args.generations):
        question = questions[i % len(questions)]
        prompt = prompt_ids(loaded.tokenizer, [user(question.text)])
        drafter.enter("question", str(i))
        drafter.enter("request", str(i))
        request = Request(prompt, NEW_TOKENS, temperature=0.6, question_id=str(i))
        generate(model, drafter, request)
        if i + 1 in SHOWN:
            print(
                f"after {i + 1:3d} generations: resident {resident():.0f} MB,"
                f" cache {model.cache.bytes / 1e6:.0f} MB"
            )


if __name__ == "__main__":
    run_command(main)()
