"""The published evaluation script's name and flags.

The same as `evaluation/speed.py --formula original`.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation import speed
from evaluation.command import run_command


def main() -> int:
    sys.argv += ["--formula", "original"]
    return speed.main()


if __name__ == "__main__":
    run_command(main)()
