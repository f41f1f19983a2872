"""Run methods under paradigms and temperatures, then tabulate and grade them.

    python -m evaluation.matrix --model-path mini --model-name mini --methods vanilla pld sam \\
        --out data/mini --question-end 4

`scripts/*.sh` call it. The methods of a setting take turns in one process, question by question.
Flags that are not the matrix's own go to every run; --for METHOD FLAGS to one method's. DRY_RUN=1
prints the commands, ALONE=1 runs every method by itself, BESIDE="0 1" runs methods beside each
other on these GPUs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from pathlib import Path

from evaluation import paradigms
from evaluation.command import Parser, run_command, summary
from evaluation.running.matrix import Matrix, run_matrix
from evaluation.running.several import (
    add_methods_flags,
    chosen_methods,
    flags_by_method,
    with_flags_as_words,
)
from model.errors import UserError

SET_BY_THE_MATRIX = (
    "--method",
    "--model-id",
    "--paradigm",
    "--think-twice",
    "--BON",
    "--temperature",
    "--answer-file",
)


def _parser() -> Parser:
    parser = Parser(
        description=summary(__doc__),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model-path", required=True, help="of every run")
    parser.add_argument("--model-name", required=True, help="begins the name of every run")
    add_methods_flags(parser)
    parser.add_argument("--paradigms", nargs="+", default=["multi_round", "best_of_n"])
    parser.add_argument("--temperatures", nargs="+", default=["0.0", "0.6"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument(
        "--alone",
        action="store_true",
        default=os.environ.get("ALONE", "0") == "1",
        help="run the methods one after the other, each in a process of its own, instead of in"
        " turn: their times then compare only on a machine that does nothing else",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        default=os.environ.get("DRY_RUN", "0") == "1",
        help="print the commands",
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        default=os.environ.get("BESIDE", "").split(),
        metavar="GPU",
        help="run methods beside each other, one on each of these GPUs",
    )
    return parser


def matrix_of(args: argparse.Namespace, flags: list[str]) -> Matrix:
    """Raises UserError for unknown methods and paradigms, and temperatures that are no numbers."""
    for paradigm in args.paradigms:
        paradigms.load(paradigm)
    for temperature in args.temperatures:
        try:
            float(temperature)
        except ValueError:
            raise UserError(f"--temperatures are numbers, not '{temperature}'") from None
    method_flags = flags_by_method(args.method_flags)
    for flag in [*flags, *itertools.chain(*method_flags.values())]:
        if flag.split("=")[0] in SET_BY_THE_MATRIX:
            raise UserError(
                f"{flag} is set for every run; use --methods, --paradigms, --temperatures and --out"
            )
    return Matrix(
        model_path=args.model_path,
        model_name=args.model_name,
        methods=chosen_methods(args.methods, args.without),
        paradigms=args.paradigms,
        temperatures=args.temperatures,
        out=args.out,
        method_flags=method_flags,
        flags=flags,
        alone=args.alone or bool(args.beside),
    )


def main() -> int:
    args, flags = _parser().parse_known_args(with_flags_as_words(sys.argv[1:]))
    matrix = matrix_of(args, flags)
    if not any(matrix.commands()):
        raise UserError(
            "no run is left: Best-of-N at temperature 0 measures nothing (its samples are equal),"
            " and --without leaves methods out"
        )
    if matrix.leaves_out_samples:
        print(
            "note: no samples at temperature 0: they are equal, nothing to measure",
            file=sys.stderr,
        )
    return run_matrix(matrix, args.beside, args.dry_run)


if __name__ == "__main__":
    run_command(main)()
