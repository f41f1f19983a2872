"""How repetitive the texts of a folder of runs are.

    python -m evaluation.redundancy DIR [--format markdown]

That is the reason why drafting from earlier text works at all (`analysis/redundancy.py`).
"""

from __future__ import annotations

from pathlib import Path

from evaluation.analysis.comparison import gather
from evaluation.analysis.redundancy import redundancy
from evaluation.command import Parser, print_notices, run_command, summary
from evaluation.report import definitions, tables
from evaluation.report.formatting import FORMATS
from model.errors import UserError


def main() -> int:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("folder", type=Path, help="a folder with records below it")
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    args = parser.parse_args()
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is not a folder")
    notices: list[str] = []
    for comparison in gather(args.folder, notices):
        for table in tables.redundancy(redundancy(comparison.reference.texts)):
            print(f"\n{comparison.title}: {table.title}\n\n{table.text(args.format)}")
    print_notices(notices)
    print("\n" + definitions.REDUNDANCY)
    return 0


if __name__ == "__main__":
    run_command(main)()
