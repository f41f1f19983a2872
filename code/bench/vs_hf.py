"""Our vanilla and prompt lookup against Hugging Face `generate` on the mini target, side by side in one run.

    python bench/vs_hf.py [--threads 1] [--tokens 200] [--rounds 5]

Both generate the same greedy text; the two take turns, and the median of the paired ratios is printed.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from evaluation import tasks
from evaluation.prompting import prompt_ids
from model import checkpoint, draft
from model.draft import Request
from model.engine.decode import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = checkpoint.load("mini")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(checkpoint.resolve("mini"), dtype=torch.float32).eval()
    _, questions = tasks.load("mini")
    print(f"{args.threads} thread(s), fp32, greedy, {args.tokens} tokens, median of {args.rounds} paired runs")
    for name, extra in (("vanilla", {}), ("pld", {"prompt_lookup_num_tokens": 10})):
        drafter, ratios, speeds = draft.load(name, loaded.target), [], []
        for question in questions[:args.rounds + 1]:
            ids = prompt_ids(loaded.tokenizer, [{"role": "user", "content": question.text}])
            begun = perf_counter()
            with torch.inference_mode():
                text = theirs.generate(torch.tensor([ids]), max_new_tokens=args.tokens, do_sample=False,
                                       min_new_tokens=args.tokens, eos_token_id=None, pad_token_id=0, **extra)
            middle = perf_counter()
            ours = generate(loaded.target, drafter, Request(ids, args.tokens))
            end = perf_counter()
            assert ours.output_ids == text[0, len(ids):].tolist(), "the two texts differ"
            speeds.append((args.tokens / (end - middle), args.tokens / (middle - begun)))
            ratios.append((middle - begun) / (end - middle))
        mine, other = (median(s) for s in zip(*speeds[1:]))  # the first question warms both up
        print(f"{name:8s} ours {mine:6.1f} tokens/s, Hugging Face {other:6.1f} tokens/s, ratio {median(ratios[1:]):.2f}"
              f"  (loop outside draft, verify, accept: {ours.times.other / ours.times.wall:.1%})")


if __name__ == "__main__":
    main()
