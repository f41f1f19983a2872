"""Prompt lookup decoding, under the published launcher's name and flags.

The same as `evaluation.inference --method pld`.
"""

from evaluation.command import run_command
from evaluation.inference import main_for


def main() -> int:
    return main_for("pld")


if __name__ == "__main__":
    run_command(main)()
