"""How a user's mistake ends a program: one line on standard error, exit code 2, no traceback."""

import functools
import os
import sys
from collections.abc import Callable

from model.errors import UserError


def guarded(main: Callable[[], int | None]) -> Callable[[], None]:
    """Run `main` and exit with its code; Ctrl-C is exit code 130."""

    @functools.wraps(main)
    def run() -> None:
        try:
            code = main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        except KeyboardInterrupt:
            print("\ninterrupted; finished questions are saved, the same command goes on", file=sys.stderr)
            code = 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        raise SystemExit(code or 0)

    return run
