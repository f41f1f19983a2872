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

from evaluation.command import run_command
from evaluation.running.cli import parse
from evaluation.running.loop import run
from evaluation.running.several import parse_several


def main_for(method: str | None = None, argv: Sequence[str] | None = None, suffix: str = "") -> int:
    """The whole program; launchers of one method pass its name.

    `suffix` is what some published launchers append to a given --model-id.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if method is None and any(word.split("=")[0] == "--methods" for word in arguments):
        return run(parse_several(arguments), arguments)
    return run([parse(arguments, method, suffix)], arguments)


def main() -> int:
    return main_for()


if __name__ == "__main__":
    run_command(main)()
