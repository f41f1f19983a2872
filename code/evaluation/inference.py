"""Run methods over a benchmark's questions and record every generation.

    python -m evaluation.inference --methods vanilla pld sam --model-path mini \\
        --paradigm best_of_n --temperature 0.6
    python -m evaluation.inference --method pld --model-path mini

Methods named together take turns, question by question, over one loaded target, so that a method
and vanilla are timed seconds apart. Flags become specifications (`running/spec.py`), which
`running/loop.py` runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from evaluation.analysis.answer import BASE
from evaluation.analysis.progress import MethodProgress, progress_of_runs
from evaluation.command import run_command
from evaluation.records.runs import read_run
from evaluation.report.formatting import with_interval
from evaluation.running.cli import parse
from evaluation.running.loop import run
from evaluation.running.several import parse_several
from evaluation.running.spec import RunSpec


def main_for(method: str | None = None, argv: Sequence[str] | None = None, suffix: str = "") -> int:
    """The whole program; launchers of one method pass its name.

    `suffix` is what some published launchers append to a given --model-id.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if method is None and any(word.split("=")[0] == "--methods" for word in arguments):
        specs = parse_several(arguments)
    else:
        specs = [parse(arguments, method, suffix)]
    code = run(specs, arguments)
    show(specs)
    return code


def show(specs: Sequence[RunSpec]) -> None:
    """A line a method: how far it is, how fast, and where its records are."""
    files = [spec.path for spec in specs if spec.path.exists()]
    runs = [read_run(file, []) for file in files if file.stat().st_size]
    for path, method in progress_of_runs(runs):
        print(f"{path}: {told(method)}")


def told(method: MethodProgress) -> str:
    """A method's progress in words."""
    parts = [f"{method.done} of {method.total or '?'} questions"]
    if method.tokens:
        parts.append(f"{method.tokens_per_second:.0f} tokens/s, MAT {method.mat:.2f}")
    if method.speed_up and method.method != BASE:
        parts.append(f"{with_interval(method.speed_up)} x vanilla")
    if method.failed:
        parts.append(f"{method.failed} failed")
    return ", ".join(parts)


def main() -> int:
    return main_for()


if __name__ == "__main__":
    run_command(main)()
