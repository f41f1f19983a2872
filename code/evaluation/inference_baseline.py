"""Vanilla decoding, under the published launcher's name and flags; the same as `evaluation.inference --method vanilla`."""

from evaluation.errors import guarded
from evaluation.inference import main_for

if __name__ == "__main__":
    guarded(lambda: main_for("vanilla"))()
