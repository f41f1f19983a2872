"""Check on one's own model that a method emits vanilla's exact tokens.

    python -m evaluation.verify --model-path mini --method pld sam eagle3

Exact in fp32. In half precision a forward over several rows rounds differently from one over a single row, so texts
may part where the two best tokens tie: agreement, first divergence and its margin are reported instead.
"""

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

import torch

from evaluation import tasks
from evaluation.cli import Parser, device_and_dtype, model_flags, option_flags
from evaluation.errors import guarded
from evaluation.prompting import prompt_ids
from evaluation.tables import FORMATS, render
from model import checkpoint, draft
from model.checkpoint import Loaded
from model.draft import Request
from model.engine.attention import Segment
from model.engine.decode import check, generate
from model.engine.sampling import PositionNoise, processed
from model.errors import UserError

TIE = 0.07  # a margin below this many logits is a tie in bf16: one ulp of a logit between 8 and 16 is 1/16


@dataclass(frozen=True)
class Comparison:
    """One text of a method against vanilla's; `at` is the first differing position, -1 where there is none."""

    tokens: int
    at: int
    margin: float
    accepted: float


def margin_at(loaded: Loaded, request: Request, ids: list[int], at: int) -> float:
    """How far apart the two best tokens were at output position `at` (noise included): the logits of vanilla's path."""
    target = loaded.target
    rows = (request.prompt_ids + ids[:at])
    logits = None
    for start in range(0, len(rows), 512):
        chunk = rows[start:start + 512]
        logits = target.forward([Segment(0, start, chunk, range(start, start + len(chunk)))], last_only=True).logits
    scores = logits[-1].float()
    if request.temperature:
        noise = PositionNoise.of(request).exponential([at], scores.shape[-1], scores.device)[0]
        scores = processed(scores, request) - noise.log()
    best = scores.topk(2).values
    return float(best[0] - best[1])


def compare(loaded: Loaded, drafter: draft.Drafter, request: Request, reference: list[int]) -> Comparison:
    """Generate with `drafter` and compare with vanilla's tokens."""
    drafter.enter("request", request.question_id)
    result = generate(loaded.target, drafter, request)
    found = result.output_ids
    same = min(len(found), len(reference))
    at = next((i for i in range(same) if found[i] != reference[i]), -1 if len(found) == len(reference) else same)
    margin = margin_at(loaded, request, reference, at) if at >= 0 else float("nan")
    steps = max(1, len(result.accept_lengths))
    return Comparison(len(reference), at, margin, sum(result.accept_lengths) / steps)


def requests(loaded: Loaded, args: argparse.Namespace, temperature: float) -> list[Request]:
    """The requests to compare on: the first questions of the task, two samples each."""
    _, questions = tasks.load(args.bench_name, args.question_file)
    base = Request([], args.max_new_tokens, temperature, seed=args.seed, stop_ids=loaded.stop_ids,
                   forcing=loaded.family.forcing(loaded.tokenizer, int(0.8 * args.max_new_tokens)))
    found = []
    for question in questions[:args.questions]:
        ids = prompt_ids(loaded.tokenizer, [{"role": "user", "content": question.text}])
        for sample in range(1 if temperature == 0 else 2):
            found.append(dataclasses.replace(base, prompt_ids=ids, question_id=question.id, sample=sample))
    return found


def rows_of(loaded: Loaded, methods: list[str], args: argparse.Namespace, exact: bool) -> tuple[list[list[str]], bool]:
    """Table rows, and whether every comparison is as it must be."""
    rows, good = [], True
    vanilla = draft.load("vanilla", loaded.target)
    for temperature in args.temperature:
        asked = requests(loaded, args, temperature)
        for request in asked:
            check(loaded.target, request)
        reference = [generate(loaded.target, vanilla, r).output_ids for r in asked]
        for method in methods:
            print(f"{method}, temperature {temperature:g} ...", file=sys.stderr)
            drafter = draft.load(method, loaded.target, options_of(method, args))
            drafter.enter("run", "verify")
            found = [compare(loaded, drafter, r, ref) for r, ref in zip(asked, reference)]
            parted = [c for c in found if c.at >= 0]
            ties = sum(c.margin < TIE for c in parted)
            good &= not parted if exact else ties == len(parted)
            first = min(parted, key=lambda c: c.at, default=None)
            rows.append([method, f"{temperature:g}", str(len(found)), str(sum(c.tokens for c in found)),
                         str(len(found) - len(parted)), f"{ties} of {len(parted)}" if parted else "-",
                         "-" if first is None else f"token {first.at}, margin {first.margin:.4f}",
                         f"{sum(c.accepted for c in found) / len(found):.2f}"])
    return rows, good


def options_of(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """The options of one method among all that were parsed."""
    return {f.name: getattr(args, f.name) for config in draft.config_types(method) for f in dataclasses.fields(config)}


def parser(methods: list[str]) -> argparse.ArgumentParser:
    flags = Parser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    model_flags(flags)
    flags.add_argument("--method", nargs="+", default=["all"], help="methods, or 'all'")
    flags.add_argument("--temperature", nargs="+", type=float, default=[0.0, 0.6, 1.0])
    flags.add_argument("--questions", type=int, default=2, help="how many questions to compare on")
    flags.add_argument("--max-new-tokens", type=int, default=200)
    flags.add_argument("--bench-name", default="mini")
    flags.add_argument("--question-file")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--format", choices=tuple(FORMATS), default="plain")
    options = flags.add_argument_group("options of the methods")
    for config in dict.fromkeys(c for m in methods for c in draft.config_types(m)):
        option_flags(options, config)
    return flags


def chosen(argv: list[str]) -> list[str]:
    """The methods named on the command line."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", nargs="+", default=["all"])
    named = first.parse_known_args(argv)[0].method
    methods = [m for m in draft.names() if m != "vanilla"] if named == ["all"] else named
    for method in methods:
        draft.parse(method)
    return methods


def main() -> int:
    methods = chosen(sys.argv[1:])
    args = parser(methods).parse_args()
    if args.max_new_tokens < 1 or args.questions < 1 or min(args.temperature) < 0:
        raise UserError("--max-new-tokens and --questions must be at least 1, temperatures at least 0")
    device, dtype = device_and_dtype(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    loaded = checkpoint.load(args.model_path, dtype, device, args.chat_template, args.device_map,
                             engine=args.engine)
    exact = dtype in ("float32", "float64")
    rows, good = rows_of(loaded, methods, args, exact)
    print(render(("method", "T", "texts", "tokens", "identical", "ties", "first divergence", "MAT"), rows,
                 args.format))
    if exact:
        print("all texts are vanilla's, token for token" if good else "NOT LOSSLESS: texts differ in full precision")
    else:
        print(f"{dtype}: every divergence is at a tie (margin below {TIE})" if good
              else f"{dtype}: some texts part where the best two tokens do not tie (margin above {TIE})")
    return 0 if good else 1


if __name__ == "__main__":
    guarded(main)()
