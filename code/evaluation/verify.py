"""Check on one's own model that a method emits vanilla's exact tokens.

    python -m evaluation.verify --model-path mini --method pld sam eagle3 --parallel 4

Exact in fp32. In half precision a forward over several rows rounds differently from one over a
single row, so texts may part where the two best tokens tie: agreement, first divergence and its
margin, in roundings of the best logit, are reported instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from evaluation import tasks
from evaluation.command import Parser, at_least, real, run_command, summary
from evaluation.paradigms import user
from evaluation.report.formatting import FORMATS, UNKNOWN, Table
from evaluation.running.build import load_alone, resolved_model
from evaluation.running.cli import add_model_flags, model_spec
from evaluation.running.options import add_options, method_configs
from evaluation.running.prompting import prompt_ids
from model import methods
from model.checkpoint import Loaded
from model.contract import Drafter, Request
from model.engine.decode import PREFILL_CHUNK, check, generate, generate_together
from model.engine.forward import Segment, Wanted
from model.engine.model import Model
from model.engine.noise import PositionNoise
from model.engine.sampling import processed
from model.engine.sequence import Generation

TIE = 4.0
"""A margin of at most so many roundings is a tie. A rounding is the unit in the last place of the
best logit, over the temperature: each of the two best logits is known to within about one, and what
enters the output layer is rounded in every layer too."""
SAMPLES = 2
"""Texts of a question at temperatures above 0."""
THINKING_BUDGET = 0.8
EXACT_DTYPES = ("float32", "float64")
HEADER = ("method", "T", "texts", "tokens", "identical", "ties", "first divergence", "MAT")


@dataclass(frozen=True)
class Margin:
    """How far apart the two best tokens were, noise included."""

    scores: float
    """In logits over the temperature."""
    rounding: float
    """One rounding of the best logit, in the same unit."""

    @property
    def roundings(self) -> float:
        return self.scores / self.rounding

    @property
    def is_tie(self) -> bool:
        return self.roundings <= TIE


@dataclass(frozen=True)
class TextCheck:
    """One text of a method against vanilla's."""

    tokens: int
    """Of vanilla's text."""
    parts_at: int | None
    """The first differing output position; None where there is none."""
    margin: Margin | None
    """How far apart the two best tokens were there; None where nothing differs."""
    mat: float
    """Mean accepted tokens."""


@dataclass
class MethodCheck:
    """All texts of one method at one temperature."""

    method: str
    temperature: float
    texts: list[TextCheck] = field(default_factory=list)

    @property
    def parted(self) -> list[TextCheck]:
        return [text for text in self.texts if text.parts_at is not None]

    @property
    def ties(self) -> int:
        return sum(text.margin is not None and text.margin.is_tie for text in self.parted)

    def is_good(self, is_exact: bool) -> bool:
        """In full precision nothing may differ, in half precision ties may."""
        return not self.parted if is_exact else self.ties == len(self.parted)

    def row(self) -> list[str]:
        """The table's line."""
        parted = self.parted
        first = min(parted, key=lambda text: text.parts_at or 0, default=None)
        divergence = UNKNOWN
        if first and first.margin:
            margin = first.margin
            divergence = (
                f"token {first.parts_at}, margin {margin.scores:.4f}"
                f" ({margin.roundings:.1f} roundings)"
            )
        mat = sum(text.mat for text in self.texts) / len(self.texts)
        return [
            self.method,
            f"{self.temperature:g}",
            str(len(self.texts)),
            str(sum(text.tokens for text in self.texts)),
            str(len(self.texts) - len(parted)),
            f"{self.ties} of {len(parted)}" if parted else UNKNOWN,
            divergence,
            f"{mat:.2f}",
        ]


def margin_at(model: Model, request: Request, ids: Sequence[int], position: int) -> Margin:
    """How far apart the two best tokens were at an output position.

    The logits are those of vanilla's path: prompt and `ids` up to the position.
    """
    rows = [*request.prompt_ids, *ids[:position]]
    for start in range(0, len(rows), PREFILL_CHUNK):
        segment = Segment.causal(0, start, rows[start : start + PREFILL_CHUNK])
        output = model.forward([segment], Wanted(last_only=True))
    scores = output.logits[-1].float()
    rounding = unit_in_last_place(scores.abs().max().item(), model.dtype)
    rounding /= request.temperature or 1.0
    if request.temperature:
        noise = PositionNoise.of(request)
        exponential = noise.exponential([position], scores.shape[-1], scores.device)
        scores = processed(scores, request) - exponential[0].log()
    best, second = scores.topk(2).values.tolist()
    return Margin(best - second, rounding)


def unit_in_last_place(value: float, dtype: torch.dtype) -> float:
    """The distance to the next number of this type."""
    exponent = math.floor(math.log2(value)) if value else 0
    return 2.0**exponent * torch.finfo(dtype).eps


def generations(
    loaded: Loaded, drafter: Drafter, requests: Sequence[Request], parallel: int
) -> Iterator[Generation]:
    """Generate with `drafter`, so many in one forward."""
    for begin in range(0, len(requests), parallel):
        group = list(requests[begin : begin + parallel])
        drafter.enter("request", f"{group[0].question_id} {begin}")
        if parallel == 1:
            yield generate(loaded.model, drafter, group[0])
        else:
            yield from generate_together(loaded.model, drafter, group)


def check_text(
    model: Model, request: Request, vanilla_ids: list[int], generation: Generation
) -> TextCheck:
    """Compare a method's tokens with vanilla's."""
    parts_at = _first_difference(generation.output_ids, vanilla_ids)
    margin = None
    if parts_at is not None:
        margin = margin_at(model, request, vanilla_ids, parts_at)
    steps = max(1, len(generation.accept_lengths))
    mat = sum(generation.accept_lengths) / steps
    return TextCheck(len(vanilla_ids), parts_at, margin, mat)


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return None if len(a) == len(b) else min(len(a), len(b))


def requests(loaded: Loaded, args: argparse.Namespace, temperature: float) -> list[Request]:
    """The requests to compare on: the first questions of the task, two samples each, or as many as
    are decoded together."""
    _, questions = tasks.load(args.bench_name, args.question_file)
    after = int(THINKING_BUDGET * args.max_new_tokens)
    base = Request(
        prompt_ids=[],
        max_new_tokens=args.max_new_tokens,
        temperature=temperature,
        seed=args.seed,
        stop_ids=loaded.stop_ids,
        forcing=loaded.family.forcing(loaded.tokenizer, after),
    )
    asked = []
    for question in questions[: args.questions]:
        ids = prompt_ids(loaded.tokenizer, [user(question.text)])
        for sample in range(max(SAMPLES, args.parallel) if temperature else 1):
            request = dataclasses.replace(
                base, prompt_ids=ids, question_id=question.id, sample=sample
            )
            check(loaded.model, request)
            asked.append(request)
    return asked


def check_methods(loaded: Loaded, names: list[str], args: argparse.Namespace) -> list[MethodCheck]:
    """Every method at every temperature."""
    vanilla = methods.load("vanilla", loaded.model)
    checks = []
    for temperature in args.temperature:
        asked = requests(loaded, args, temperature)
        texts = [generate(loaded.model, vanilla, request).output_ids for request in asked]
        for name in names:
            print(f"{name}, temperature {temperature:g} ...", file=sys.stderr)
            drafter = methods.build(name, loaded.model, method_configs(name, args))
            drafter.enter("run", "verify")
            checked = MethodCheck(name, temperature)
            made = generations(loaded, drafter, asked, args.parallel)
            for request, text, generation in zip(asked, texts, made, strict=True):
                checked.texts.append(check_text(loaded.model, request, text, generation))
            checks.append(checked)
    return checks


def verify_parser(names: list[str]) -> Parser:
    """The flags, with the options of these methods."""
    parser = Parser(
        description=summary(__doc__), formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_model_flags(parser)
    parser.add_argument("--method", nargs="+", default=["all"], help="methods, or 'all'")
    parser.add_argument("--temperature", nargs="+", type=real, default=[0.0, 0.6, 1.0])
    parser.add_argument("--questions", type=int, default=2, help="how many questions to compare on")
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="P",
        help="decode P texts in one forward, and compare with vanilla's made alone",
    )
    parser.add_argument("--bench-name", default="mini")
    parser.add_argument("--question-file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    types: list[type] = []
    for name in names:
        types += methods.config_types(name)
    add_options(parser.add_argument_group("options of the methods"), types)
    return parser


def chosen_methods(argv: Sequence[str]) -> list[str]:
    """The methods named on the command line; raises UserError for an unknown one."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", nargs="+", default=["all"])
    named = first.parse_known_args(argv)[0].method
    if named == ["all"]:
        return [name for name in methods.names() if name != "vanilla"]
    for name in named:
        methods.parse(name)
    return named


def verdict(dtype: str, is_good: bool) -> str:
    """The last line."""
    if dtype in EXACT_DTYPES:
        if is_good:
            return "all texts are vanilla's, token for token"
        return "NOT LOSSLESS: texts differ in full precision"
    if is_good:
        return f"{dtype}: every divergence is at a tie (a margin of at most {TIE:g} roundings)"
    return (
        f"{dtype}: some texts part where the best two tokens do not tie (margins above {TIE:g}"
        " roundings)"
    )


def main() -> int:
    names = chosen_methods(sys.argv[1:])
    args = verify_parser(names).parse_args()
    at_least(args, 1, "max_new_tokens", "questions", "parallel")
    at_least(args, 0, "temperature")
    spec = resolved_model(model_spec(args))
    loaded = load_alone(spec)
    checks = check_methods(loaded, names, args)
    is_good = all(checked.is_good(spec.dtype in EXACT_DTYPES) for checked in checks)
    print(Table("", HEADER, [checked.row() for checked in checks]).text(args.format))
    print(verdict(spec.dtype, is_good))
    return 0 if is_good else 1


if __name__ == "__main__":
    run_command(main)()
