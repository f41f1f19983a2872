"""SAM-Decoding, under the published launcher's name and flags: `--tree_method` chooses what drafts beside the automaton."""

import sys

from evaluation.cli import Parser
from evaluation.errors import guarded
from evaluation.inference import main_for
from model.errors import UserError

METHODS = {"None": "sam", "eagle3": "sam_eagle3", "token_recycle": "sam[recycling]"}


def main() -> int:
    """Take `--tree_method` off the command line and run the method it names."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--tree_method", default="None")
    known, rest = parser.parse_known_args(sys.argv[1:])
    if known.tree_method not in METHODS:
        raise UserError(f"--tree_method is one of {', '.join(METHODS)}, not '{known.tree_method}'")
    return main_for(METHODS[known.tree_method], rest)


if __name__ == "__main__":
    guarded(main)()
