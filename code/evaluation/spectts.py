"""The console command: `spectts COMMAND ...` is `python -m evaluation.MODULE ...`.

spectts run --method pld --model-path mini
spectts speed data/mini
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from evaluation import __version__
from evaluation.command import run_command
from model.errors import UserError


@dataclass(frozen=True)
class Command:
    """A module with a `main`, and what it is for."""

    module: str
    purpose: str


COMMANDS = {
    "run": Command("evaluation.inference", "run one method over a benchmark's questions"),
    "matrix": Command("evaluation.matrix", "run methods under paradigms and temperatures"),
    "replay": Command("evaluation.replay", "recorded texts through drafters, without a model"),
    "speed": Command("evaluation.speed", "the speed table of a folder of runs"),
    "score": Command("evaluation.score", "grade recorded generations"),
    "watch": Command("evaluation.watch", "a local page of how runs get on"),
    "report": Command("evaluation.report.__main__", "one page over a folder of runs"),
    "redundancy": Command("evaluation.redundancy", "how repetitive the texts are"),
    "leaderboard": Command("evaluation.leaderboard", "one table over several machines"),
    "engine": Command("evaluation.engine", "the same questions against vLLM, SGLang, llama-server"),
    "audit": Command("evaluation.audit", "does a server's speculation change what it says?"),
    "serve": Command("evaluation.serve", "serve a model with a method, over OpenAI's protocol"),
    "verify": Command("evaluation.verify", "does a method emit vanilla's exact tokens?"),
    "calibrate": Command("evaluation.calibrate", "what verifying n nodes costs here"),
    "estimate": Command("evaluation.estimate", "memory and duration at true scale"),
    "parallel": Command("evaluation.parallel", "speed-up against samples decoded together"),
    "fit-tree": Command("evaluation.fit_tree", "fit STAND's static tree to recorded runs"),
    "records": Command("evaluation.records.__main__", "export records as published traces"),
}


def usage() -> str:
    """All commands, a line each."""
    lines = ["usage: spectts COMMAND [flags]   (spectts COMMAND --help; spectts --version)", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:12s} {command.purpose}")
    return "\n".join(lines)


def main() -> int:
    """Hand the rest of the command line over to the command's module."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name = sys.argv[1]
    if name == "--version":
        print(f"spectts-bench {__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"no command '{name}'; there are: {', '.join(COMMANDS)}")
    sys.argv = [f"spectts {name}", *sys.argv[2:]]
    command: Callable[[], int] = importlib.import_module(COMMANDS[name].module).main
    return command()


def console() -> None:
    """The entry point of the installed command."""
    run_command(main)()


if __name__ == "__main__":
    console()
