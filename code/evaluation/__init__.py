"""The harness: questions in, records out, and what records say. Joins to `model` in `running`."""

import sys

__version__ = "0.4.0"

if sys.argv[:1] == ["-m"]:  # `python -m evaluation.X` imports this first
    from evaluation.running.interrupts import end_while_importing

    end_while_importing()
