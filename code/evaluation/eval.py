"""The published harness's name: the same as `evaluation.inference`.

The loop over questions is `evaluation/running/loop.py`.
"""

from evaluation.command import run_command
from evaluation.inference import main

if __name__ == "__main__":
    run_command(main)()
