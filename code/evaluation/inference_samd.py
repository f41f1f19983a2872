"""SAM-Decoding, under the published launcher's name and flags.

`--tree_method` chooses what drafts beside the automaton.
"""

from __future__ import annotations

import sys

from evaluation.command import Parser, run_command
from evaluation.inference import main_for
from model.errors import UserError

METHODS = {"None": "sam", "eagle3": "sam_eagle3", "token_recycle": "sam[recycling]"}


def main() -> int:
    """Take `--tree_method` off the command line and run the method it names."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--tree_method", default="None")
    chosen, rest = parser.parse_known_args(sys.argv[1:])
    if chosen.tree_method not in METHODS:
        raise UserError(f"--tree_method is one of {', '.join(METHODS)}, not '{chosen.tree_method}'")
    return main_for(METHODS[chosen.tree_method], rest)


if __name__ == "__main__":
    run_command(main)()
