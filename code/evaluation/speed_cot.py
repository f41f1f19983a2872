"""The published evaluation script's name and flags; the same as `evaluation/speed.py --formula original`."""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation.errors import guarded
from evaluation.speed import main

if __name__ == "__main__":
    sys.argv += ["--formula", "original"]
    guarded(main)()
