"""One command line for several methods in turn: `--methods vanilla pld sam --for pld "FLAGS"`.

The methods share the target and all flags; `--for` adds flags of one method. Names of runs and
records files hold `{method}`.
"""

from __future__ import annotations

import argparse
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.command import Parser
from evaluation.running.cli import METHOD_ALIASES, launcher_parser, note_unused, spec_of
from evaluation.running.spec import RunSpec
from model import methods
from model.errors import UserError

PLACE = "{method}"
SHARED = (
    "model",
    "questions",
    "paradigm",
    "generation",
    "workers",
    "warmup",
    "record_topk",
    "record_drafts",
    "parallel",
    "max_rows",
)
"""What methods in turn have in common, by the specification's fields."""


def add_methods_flags(parser: Any) -> None:
    """Of every command that runs several methods."""
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        default=["all"],
        help="methods to run in turn, question by question; 'all', or at the end all others",
    )
    parser.add_argument(
        "--without", nargs="*", default=[], metavar="METHOD", help="methods to leave out of 'all'"
    )
    parser.add_argument(
        "--for",
        nargs=2,
        action="append",
        default=[],
        metavar=("METHOD", "FLAGS"),
        dest="method_flags",
        help="flags of one method alone, as one word",
    )


def with_flags_as_words(argv: Sequence[str]) -> list[str]:
    """`--for pld --pld-tokens=4`: the second word is no flag of the command. A space says so."""
    words = list(argv)
    for i, word in enumerate(argv[:-2]):
        if word == "--for":
            words[i + 2] = f" {argv[i + 2]}"
    return words


def chosen_methods(named: Sequence[str], without: Sequence[str]) -> list[str]:
    """In the order they are named; 'all' as the last stands for those not named before, without
    what is left out. Raises UserError for an unknown or repeated name.
    """
    left_out = [known(name) for name in without]
    if named and named[-1] == "all":
        first = chosen_methods(named[:-1], without) if named[:-1] else []
        others = [name for name in methods.names() if name not in first]
        return [name for name in (*first, *others) if name not in left_out]
    chosen = [known(name) for name in named]
    repeated = sorted({name for name in chosen if chosen.count(name) > 1})
    if repeated:
        raise UserError(f"--methods names {', '.join(repeated)} twice")
    return chosen


def known(method: str) -> str:
    """The method's name today; raises UserError where there is none."""
    name = METHOD_ALIASES.get(method, method)
    methods.parse(name)
    return name


def flags_by_method(pairs: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """The words of every `--for`, by method."""
    flags: dict[str, list[str]] = defaultdict(list)
    for method, text in pairs:
        try:
            flags[known(method)] += shlex.split(text)
        except ValueError as error:
            raise UserError(f"--for {method}: {error} in '{text.strip()}'") from None
    return flags


def parse_several(argv: Sequence[str]) -> list[RunSpec]:
    """A specification a method.

    Raises UserError for what makes no sense, and where `--for` changes what methods in turn share.
    """
    first = Parser(add_help=False, allow_abbrev=False)
    add_methods_flags(first)
    chosen, rest = first.parse_known_args(with_flags_as_words(argv))
    names = chosen_methods(chosen.methods, chosen.without)
    own_flags = flags_by_method(chosen.method_flags)
    for method in own_flags:
        _check_own(method, own_flags[method])
    parser = launcher_parser(tuple(names), description=f"Run {', '.join(names)} in turn.")
    add_methods_flags(parser.add_argument_group("methods"))
    note_unused(parser.parse_args(rest))
    specs = []
    for name in names:
        args = parser.parse_args([*rest, *own_flags.get(name, ())])
        _check_places(args, len(names))
        spec = spec_of(name, args, method=name)
        specs.append(spec)
    _check_shared(specs, own_flags)
    return specs


def _check_own(method: str, flags: Sequence[str]) -> None:
    """Flags of another method would have no effect."""
    required = ["--model-path", ""]
    _, unknown = launcher_parser((method,)).parse_known_args([*required, *flags])
    if unknown:
        raise UserError(
            f"--for {method}: {' '.join(unknown)} is no flag of {method}; its flags:"
            f" python -m evaluation.inference --method {method} --help"
        )


def _check_places(args: argparse.Namespace, count: int) -> None:
    """Every method needs a records file of its own."""
    for flag, value in (("--model-id", args.model_id), ("--answer-file", args.answer_file)):
        if value and PLACE not in value and count > 1:
            raise UserError(
                f"{flag} {value}: each method has a records file of its own, so the name must hold"
                f" {PLACE}, as in 'mine-{PLACE}'"
            )


def _check_shared(specs: Sequence[RunSpec], own_flags: Mapping[str, Sequence[str]]) -> None:
    for spec in specs[1:]:
        for name in SHARED:
            if getattr(spec, name) != getattr(specs[0], name):
                own = spec.method.name
                method = own if own in own_flags else specs[0].method.name
                raise UserError(
                    f"--for {method} {shlex.join(own_flags.get(method, ()))}: methods in turn share"
                    f" the {name}; give such flags to all, or run {method} by itself"
                )
