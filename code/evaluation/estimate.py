"""Memory and duration of a run at true scale, from stated formulas: nothing is loaded.

    python -m evaluation.estimate --model-path Qwen/Qwen3-8B --bandwidth 3.35

memory    1.1 x (weights + positions x cache bytes a token)
step      (weights - unread input embedding + mean context x cache bytes a token) / (share x bandwidth)
duration  generations x tokens x step / speed-up
"""

import argparse

from evaluation.cli import Parser
from evaluation.errors import guarded
from evaluation.tables import FORMATS, render
from model import checkpoint
from model.checkpoint import DTYPES
from model.memory import Footprint, footprint


def parser() -> argparse.ArgumentParser:
    flags = Parser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("--model-path", nargs="+", required=True, help="checkpoint folders or hub ids (only config.json is read)")
    flags.add_argument("--dtype", default="bfloat16", choices=tuple(DTYPES))
    flags.add_argument("--max-new-tokens", type=int, default=15_000)
    flags.add_argument("--tokens", type=int, default=8_000, help="mean tokens of a generation")
    flags.add_argument("--questions", type=int, default=120)
    flags.add_argument("--bandwidth", type=float, default=3.35, help="memory bandwidth in TB/s (H100 SXM 3.35, H200 4.8)")
    flags.add_argument("--share", type=float, default=0.4, help="share of it that a step reaches (eager loops 0.3 to 0.5)")
    flags.add_argument("--format", choices=tuple(FORMATS), default="markdown")
    flags.add_argument("--speed-up", type=float, default=1.0, help="of the method over vanilla")
    return flags


def row(name: str, size: Footprint, args: argparse.Namespace) -> list[str]:
    """One model's line: memory, step, and hours of each setting."""
    context = args.tokens / 2
    step = size.step_bytes(context) / (args.share * args.bandwidth * 1e12)
    hours = [args.questions * n * args.tokens * step / args.speed_up / 3600 for n in (2, 4)]
    return [name, f"{size.weights / 1e9:.1f}", f"{size.total(args.max_new_tokens + 2048) / 1e9:.1f}", f"{size.token / 1e3:.0f}",
            f"{1e3 * step:.1f}", *(f"{h:.1f}" for h in hours)]


def main() -> int:
    args = parser().parse_args()
    rows = [row(path.rstrip("/").rsplit("/", 1)[-1], footprint(checkpoint.load_config(path), DTYPES[args.dtype]), args)
            for path in args.model_path]
    header = ("model", "weights (GB)", "memory (GB)", "cache (kB/token)", "step (ms)", "multi-round (h)", "best of 4 (h)")
    print(render(header, rows, args.format))
    print(f"\n{args.dtype}, {args.questions} questions, {args.tokens} tokens a generation, {args.share:.0%} of"
          f" {args.bandwidth} TB/s, speed-up {args.speed_up:g}")
    return 0


if __name__ == "__main__":
    guarded(main)()
