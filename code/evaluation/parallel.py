"""Speed-up and tokens a second against how many samples are decoded together.

    python -m evaluation.parallel DIR ...

Every folder holds the runs of one --parallel. A speed-up is over vanilla of the same folder, with
as many together; where a method is no longer faster, drafting stops paying. Where the runs were
scored, what a right answer costs is there too. Figures go into the first folder:
parallel-speed-up.png, parallel-tokens.png, parallel-cost.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.analysis.comparison import Comparison, MethodRuns, gather
from evaluation.analysis.metrics import NAN
from evaluation.analysis.results import SpeedResult, speed_result
from evaluation.analysis.scores_file import mean_scores
from evaluation.command import Parser, print_notices, run_command, summary
from evaluation.report.colours import colour, marker
from evaluation.report.figures import Panel, panels, save
from evaluation.report.formatting import FORMATS, UNKNOWN, Table, number, with_interval
from model.errors import UserError

BASE = "vanilla"
HEADER = (
    *("method", "together", "speed-up [95 %]", "verdict", "tokens/s", "latency", "MAT"),
    "s / correct",
)
HEIGHTS = {
    "speed-up": "speed-up over vanilla with as many",
    "tokens": "tokens a second",
    "cost": "seconds a right answer",
}
"""What is drawn, and its axis."""
NO_LONGER = ("slower", "not distinguishable", "within the noise")
"""Verdicts of a method that does not pay."""
BELOW = """
together   samples of a question decoded in one forward
speed-up   over vanilla with as many together; verdict as in the speed table
tokens/s   of all samples under way
latency    seconds from the group's beginning to a sample's end, mean
s / correct  seconds of all samples over right answers, by python -m evaluation.score"""


@dataclass(frozen=True)
class Point:
    """A method with so many samples together."""

    title: str
    """Of the setting."""
    together: int
    speed: SpeedResult
    latency: float
    cost: float = NAN
    """Seconds a right answer; NaN where none is, or nobody scored."""

    @property
    def is_faster(self) -> bool | None:
        """Than vanilla; None where that cannot be said."""
        verdict = self.speed.verdict.against_b if self.speed.verdict else ""
        if verdict in NO_LONGER:
            return False
        return True if verdict == "faster" else None


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(sys.argv[1:] if argv is None else argv)
    notices: list[str] = []
    points = gathered(args.folders, notices)
    print_notices(notices)
    if not points:
        raise UserError("no folder has a vanilla run and a question that it has finished")
    titles = list(dict.fromkeys(point.title for point in points))
    for title in titles:
        own = [point for point in points if point.title == title]
        print(f"\n{title}\n{_table(title, own).text(args.format)}")
        for line in conclusions(own):
            print(line)
    print(BELOW)
    for what in HEIGHTS:
        if what == "cost" and all(isnan(point.cost) for point in points):
            print("no cost of a right answer yet: python -m evaluation.score DIR")
            continue
        file = args.folders[0] / f"parallel-{what}.png"
        save(figure(titles, points, what), file)
        print(f"figure: {file}")
    return 0


def gathered(folders: Sequence[Path], notices: list[str]) -> list[Point]:
    """Every method beside vanilla, by setting, method and number together.

    Where another folder has as many together in a setting (no more samples there are, or rounds
    that cannot run together), the first one counts.
    """
    points: list[Point] = []
    seen: set[tuple[str, int]] = set()
    for folder in folders:
        for comparison in gather(folder, notices):
            if comparison.vanilla is None:
                continue
            together = max(record.batch for record in comparison.vanilla.all_records)
            if (comparison.title, together) in seen:
                notices.append(
                    f"{folder}: {comparison.title} is left out, an earlier folder has {together}"
                    " together too"
                )
                continue
            seen.add((comparison.title, together))
            points += _points(comparison, together, notices)
    order = sorted(points, key=lambda p: (p.speed.method != BASE, p.speed.method, p.together))
    return sorted(order, key=lambda point: point.title)


def _points(comparison: Comparison, together: int, notices: list[str]) -> list[Point]:
    points = []
    for method in comparison.methods:
        speed = speed_result(comparison, method)
        if speed.speed_up is not None:
            scores = mean_scores(method.runs, notices)
            cost = scores.seconds_per_correct if scores else NAN
            points.append(Point(comparison.title, together, speed, _latency(method), cost))
    return points


def _latency(method: MethodRuns) -> float:
    """Mean; before there were groups a generation's wall time."""
    seconds = [r.seconds if r.latency is None else r.latency for r in method.records]
    return mean(seconds) if seconds else NAN


def conclusions(points: Sequence[Point]) -> list[str]:
    """From which number together each method is no longer faster than vanilla."""
    lines = []
    for method in dict.fromkeys(point.speed.method for point in points):
        own = [point for point in points if point.speed.method == method]
        lost = [point.together for point in own if point.is_faster is False]
        if lost:
            lines.append(f"{method}: drafting does not pay with {min(lost)} together")
    return lines


def figure(titles: Sequence[str], points: Sequence[Point], what: str) -> Figure:
    """Of every setting one of HEIGHTS against the number together."""

    def draw(axis: Axes, which: int) -> None:
        chosen = [point for point in points if point.title == titles[which]]
        for name in dict.fromkeys(point.speed.method for point in chosen):
            own = [point for point in chosen if point.speed.method == name]
            heights = [_height(point, what) for point in own]
            together = [point.together for point in own]
            axis.plot(together, heights, color=colour(name), marker=marker(name), label=name)
        numbers = sorted({point.together for point in chosen})
        axis.set_xscale("log", base=2)
        axis.set_xticks(numbers, [str(n) for n in numbers])
        axis.minorticks_off()
        axis.set_xlabel("samples decoded together")
        axis.set_ylabel(HEIGHTS[what])
        if what == "speed-up":
            axis.axhline(1, color=colour(BASE), lw=1)

    return panels(titles, draw, Panel(width=6.0, height=4.2, has_legend=True))


def _height(point: Point, what: str) -> float:
    assert point.speed.speed_up is not None
    heights = {
        "speed-up": point.speed.speed_up.ratio,
        "tokens": point.speed.tokens_per_second,
        "cost": point.cost,
    }
    return heights[what]


def _table(title: str, points: Sequence[Point]) -> Table:
    rows = []
    for point in points:
        speed = point.speed
        rows.append(
            (
                speed.method,
                str(point.together),
                with_interval(speed.speed_up),
                speed.verdict.against_b if speed.verdict else UNKNOWN,
                number(speed.tokens_per_second, 0),
                number(point.latency),
                number(speed.mat),
                number(point.cost),
            )
        )
    return Table(title, HEADER, rows)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description=summary(__doc__), allow_abbrev=False)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of runs")
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)()
