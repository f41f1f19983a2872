"""What every command shares: flags whose errors are one line, and how a user's mistake ends it."""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from evaluation import __version__
from evaluation.running import interrupts
from model.errors import UserError, printable

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are the one line that users get everywhere, with --version."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.add_help:
            version = f"spectts-bench {__version__}"
            self.add_argument("--version", action="version", version=version)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def real(text: str) -> float:
    """A flag's number; NaN and infinity are none."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


real.__name__ = "number"  # what argparse calls it in its errors


def at_least(args: argparse.Namespace, least: float, *names: str) -> None:
    """Raise UserError for flags (by their names among the parsed) below `least`."""
    for name in names:
        value = getattr(args, name)
        values = value if isinstance(value, list) else [value]
        if any(number is not None and number < least for number in values):
            raise UserError(f"--{name.replace('_', '-')} must be at least {least:g}, not {value}")


def summary(docstring: str | None) -> str:
    """The first line of a module's docstring: what `--help` says of a command."""
    return (docstring or "").strip().split("\n")[0]


def print_notices(notices: Iterable[str]) -> None:
    """What a reader should know of the numbers, before them."""
    for notice in notices:
        print(f"note: {printable(notice)}")


def add_quiet_flag(parser: argparse.ArgumentParser) -> None:
    """For commands that write files: the matrix runs them one after another."""
    parser.add_argument(
        "--quiet", action="store_true", help="no tables and notes: what is written holds them"
    )


def run_command(main: Callable[[], int | None]) -> Callable[[], NoReturn]:
    """Run `main` and exit with its code.

    A UserError is one line on standard error and exit code 2, Ctrl-C exit code 130 (SIGTERM 143), a
    closed pipe (as after `| head`) exit code 0.
    """

    @functools.wraps(main)
    def run() -> NoReturn:
        try:
            with interrupts.unwinding():
                code = main()
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            code = 2
        except KeyboardInterrupt as stop:
            print("\ninterrupted", file=sys.stderr)
            code = stop.exit_code if isinstance(stop, interrupts.Interrupted) else INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        raise SystemExit(code or 0)

    return run
