"""PIA, under the published launcher's name and flags.

The same as `evaluation.inference --method pia`.
"""

from evaluation.command import run_command
from evaluation.inference import main_for


def main() -> int:
    return main_for("pia")


if __name__ == "__main__":
    run_command(main)()
