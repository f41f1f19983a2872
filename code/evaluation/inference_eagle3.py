"""EAGLE-3, under the published launcher's name and flags.

The same as `evaluation.inference --method eagle3`.
"""

from evaluation.command import run_command
from evaluation.inference import main_for


def main() -> int:
    return main_for("eagle3", suffix="-temperature-{temperature}")


if __name__ == "__main__":
    run_command(main)()
