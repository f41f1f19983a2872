"""REST, under the published launcher's name and flags.

The same as `evaluation.inference --method rest`.
"""

from evaluation.command import run_command
from evaluation.inference import main_for


def main() -> int:
    return main_for("rest", suffix="-temperature-{temperature}-top_p-{sampling_top_p}")


if __name__ == "__main__":
    run_command(main)()
