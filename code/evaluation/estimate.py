"""Memory and duration of a run at true scale, from stated formulas: nothing is loaded.

    python -m evaluation.estimate --model-path Qwen/Qwen3-8B --bandwidth 3.35

memory    1.1 x (weights + samples together x positions x cache bytes a token)
step      (weights - unread input embedding + samples together x mean context x cache bytes a token)
          / (share x bandwidth)
duration  generations x tokens x step / samples together / speed-up
"""

from __future__ import annotations

import argparse

from evaluation.command import Parser, at_least, real, run_command, summary
from evaluation.report.formatting import FORMATS, Table
from model.checkpoint import DTYPES, resolve
from model.errors import UserError
from model.memory import Footprint, footprint
from model.network import load_config

PROMPT_POSITIONS = 2048
ROUNDS, SAMPLES = 2, 4
HEADER = (
    "model",
    "weights (GB)",
    "memory (GB)",
    "cache (kB/token)",
    "step (ms)",
    "multi-round (h)",
    "best of 4 (h)",
)


def _parser() -> Parser:
    parser = Parser(
        description=summary(__doc__), formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--model-path",
        nargs="+",
        required=True,
        help="checkpoint folders or hub ids (only config.json is read)",
    )
    parser.add_argument("--dtype", default="bfloat16", choices=tuple(DTYPES))
    parser.add_argument("--max-new-tokens", type=int, default=15_000)
    parser.add_argument("--tokens", type=int, default=8_000, help="mean tokens of a generation")
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument(
        "--bandwidth",
        type=real,
        default=3.35,
        help="memory bandwidth in TB/s (H100 SXM 3.35, H200 4.8)",
    )
    parser.add_argument(
        "--share",
        type=real,
        default=0.4,
        help="share of it that a step reaches (eager loops 0.3 to 0.5)",
    )
    parser.add_argument(
        "--parallel", type=int, default=1, metavar="P", help="samples of a question together"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="markdown")
    parser.add_argument("--speed-up", type=real, default=1.0, help="of the method over vanilla")
    return parser


def row(name: str, size: Footprint, args: argparse.Namespace) -> list[str]:
    """One model's line: memory, step, and hours of each paradigm."""
    bandwidth = args.share * args.bandwidth * 1e12
    context = args.tokens / 2
    together = min(args.parallel, SAMPLES)
    step = size.step_bytes(context) / bandwidth
    sample_step = size.step_bytes(context, together) / bandwidth / together
    memory = size.total(args.max_new_tokens + PROMPT_POSITIONS, together)
    cells = [
        name,
        f"{size.weights / 1e9:.1f}",
        f"{memory / 1e9:.1f}",
        f"{size.token / 1e3:.0f}",
        f"{1e3 * step:.1f}",
    ]
    for generations, seconds in ((ROUNDS, step), (SAMPLES, sample_step)):
        tokens = args.questions * generations * args.tokens
        cells.append(f"{tokens * seconds / args.speed_up / 3600:.1f}")
    return cells


def main() -> int:
    args = _parser().parse_args()
    at_least(args, 1, "max_new_tokens", "tokens", "questions", "parallel")
    if min(args.bandwidth, args.share, args.speed_up) <= 0:
        raise UserError("--bandwidth, --share and --speed-up must be above 0")
    rows = []
    for path in args.model_path:
        name = path.rstrip("/").rsplit("/", 1)[-1]
        size = footprint(load_config(resolve(path)), DTYPES[args.dtype])
        rows.append(row(name, size, args))
    print(Table("", HEADER, rows).text(args.format))
    print(
        f"\n{args.dtype}, {args.questions} questions, {args.tokens} tokens a generation,"
        f" up to {min(args.parallel, SAMPLES)} samples together,"
        f" {args.share:.0%} of {args.bandwidth} TB/s, speed-up {args.speed_up:g}"
    )
    return 0


if __name__ == "__main__":
    run_command(main)()
