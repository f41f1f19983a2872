"""Speed-up and tokens a second against how many samples are decoded together.

    python -m evaluation.parallel DIR ...

A speed-up is over vanilla of the same folder, with as many together; where a method is no longer
faster, drafting stops paying. Where the runs were scored, what a right answer costs is there too.
Figures go into the first folder: parallel-speed-up.png, parallel-tokens.png, parallel-cost.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.analysis.comparison import Comparison, gather
from evaluation.analysis.together import Point, conclusions, points_of
from evaluation.command import Parser, print_notices, run_command, summary
from evaluation.report import together, together_figure
from evaluation.report.figures import save
from evaluation.report.formatting import FORMATS
from model.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(sys.argv[1:] if argv is None else argv)
    notices: list[str] = []
    points = gathered(args.folders, notices)
    print_notices(notices)
    if not points:
        raise UserError("no folder has a vanilla run and a question that it has finished")
    for setting in dict.fromkeys(point.setting for point in points):
        own = [point for point in points if point.setting == setting]
        print(f"\n{setting}\n{together.table(setting, own).text(args.format)}")
        for line in conclusions(own):
            print(line)
    print(f"\n{together.MEANINGS}")
    drawable = together.drawable(points)
    if "cost" not in drawable:
        print("no cost of a right answer yet: python -m evaluation.score DIR")
    for what in drawable:
        file = args.folders[0] / f"parallel-{what}.png"
        save(together_figure.figure(points, what), file)
        print(f"figure: {file}")
    return 0


def gathered(folders: Sequence[Path], notices: list[str]) -> list[Point]:
    """Every method beside vanilla, by setting, method and number together.

    Where another folder has as many together in a setting (no more samples there are, or rounds
    that cannot run together), the first one counts.
    """
    chosen: dict[str, Comparison] = {}
    for folder in folders:
        for comparison in gather(folder, notices):
            if comparison.vanilla is None:
                continue
            if comparison.title in chosen:
                notices.append(
                    f"{folder}: {comparison.name} is left out, an earlier folder has"
                    f" {comparison.setting.together} together too"
                )
                continue
            chosen[comparison.title] = comparison
    return points_of(chosen.values(), notices)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description=summary(__doc__), allow_abbrev=False)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of runs")
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)()
