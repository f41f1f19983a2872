"""Speed-up and tokens a second against how many samples are decoded together.

    python -m evaluation.parallel DIR ...

Every folder holds the runs of one number of samples (--parallel). A speed-up is over vanilla with
the same number; where it falls to 1, drafting stops paying. Figures go into the first folder:
parallel-speed-up.png and parallel-tokens.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.analysis.metrics import SpeedUp, mean_accepted_tokens, speed, speed_up
from evaluation.command import Parser, print_notices, run_command, summary
from evaluation.records.runs import RunFile, Setting, check_prompts, find_runs
from evaluation.records.totals import finished
from evaluation.report.colours import colour, marker
from evaluation.report.figures import Panel, panels, save
from evaluation.report.formatting import FORMATS, Table, number, with_interval
from model.errors import UserError

BASE = "vanilla"
HEADER = ("method", "P", "speed-up", "tokens/s", "latency", "MAT")
HEIGHTS = {"speed-up": "speed-up over vanilla with as many", "tokens": "tokens a second"}
"""What is drawn, and its axis."""
BELOW = """
P: samples decoded in one forward; speed-up: over vanilla with the same P, 95 % over questions;
tokens/s: of the whole group; latency: seconds from a group's beginning to a sample's end, mean."""


@dataclass(frozen=True)
class Place:
    """A method with so many samples together."""

    setting: Setting
    method: str
    parallel: int
    speed_up: SpeedUp
    tokens_per_second: float
    latency: float
    mat: float


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(sys.argv[1:] if argv is None else argv)
    notices: list[str] = []
    found: list[RunFile] = []
    for folder in args.folders:
        found += [run for run in find_runs(folder, notices) if run.records]
    places = places_of(found, notices)
    print_notices(notices)
    if not places:
        raise UserError(
            "no run has vanilla with the same --parallel beside it; run --method vanilla too"
        )
    settings = list(dict.fromkeys(place.setting for place in places))
    for setting in settings:
        own = [place for place in places if place.setting == setting]
        print(f"\n{_title(setting)}\n{_table(setting, own).text(args.format)}")
        for line in verdicts(own):
            print(line)
    print(BELOW)
    for what in HEIGHTS:
        file = args.folders[0] / f"parallel-{what}.png"
        save(figure(settings, places, what), file)
        print(f"figure: {file}")
    return 0


def places_of(found: Sequence[RunFile], notices: list[str]) -> list[Place]:
    """Every run beside vanilla of its setting and number, by setting, method and number.

    Raises UserError where two files are one method's with one number, or prompts differ.
    """
    runs: dict[tuple[Setting, int, str], RunFile] = {}
    for run in found:
        key = run.setting, parallel_of(run), run.name
        if key in runs:
            raise UserError(
                f"{runs[key].path} and {run.path} are both {run.name} with {key[1]} together;"
                " give one of them"
            )
        runs[key] = run
    places = []
    for (setting, parallel, name), run in runs.items():
        base = runs.get((setting, parallel, BASE))
        if base is None or not set(run.totals) & set(base.totals):
            notices.append(f"{run.path}: no vanilla with {parallel} together to compare with")
            continue
        check_prompts(run, base)
        records = finished(run.records)
        latencies = [r.seconds if r.latency is None else r.latency for r in records]
        places.append(
            Place(
                setting,
                name,
                parallel,
                speed_up(run.totals, base.totals),
                speed(run.totals),
                mean(latencies),
                mean_accepted_tokens(records),
            )
        )
    order = sorted(places, key=lambda place: (place.method != BASE, place.method, place.parallel))
    return sorted(order, key=lambda place: str(place.setting))


def parallel_of(run: RunFile) -> int:
    """How many samples ran together, at most."""
    return max(record.batch for record in run.records)


def verdicts(places: Sequence[Place]) -> list[str]:
    """From which number on each method is no faster than vanilla."""
    lines = []
    for method in dict.fromkeys(place.method for place in places):
        own = [place for place in places if place.method == method]
        slower = [place.parallel for place in own if place.speed_up.ratio <= 1]
        if method != BASE and slower:
            lines.append(f"{method}: drafting does not pay with {min(slower)} together")
    return lines


def figure(settings: Sequence[Setting], places: Sequence[Place], what: str) -> Figure:
    """Of every setting one of HEIGHTS against the number together."""

    def draw(axis: Axes, which: int) -> None:
        chosen = [place for place in places if place.setting == settings[which]]
        for name in dict.fromkeys(place.method for place in chosen):
            own = [place for place in chosen if place.method == name]
            heights = [_height(place, what) for place in own]
            together = [place.parallel for place in own]
            axis.plot(together, heights, color=colour(name), marker=marker(name), label=name)
        numbers = sorted({place.parallel for place in chosen})
        axis.set_xscale("log", base=2)
        axis.set_xticks(numbers, [str(n) for n in numbers])
        axis.minorticks_off()
        axis.set_xlabel("samples decoded together")
        axis.set_ylabel(HEIGHTS[what])
        if what == "speed-up":
            axis.axhline(1, color=colour(BASE), lw=1)

    titles = [_title(setting) for setting in settings]
    return panels(titles, draw, Panel(width=6.0, height=4.2, has_legend=True))


def _height(place: Place, what: str) -> float:
    return place.speed_up.ratio if what == "speed-up" else place.tokens_per_second


def _title(setting: Setting) -> str:
    return f"{setting.paradigm}, T = {setting.temperature:g}"


def _table(setting: Setting, places: Sequence[Place]) -> Table:
    rows = []
    for place in places:
        rows.append(
            (
                place.method,
                str(place.parallel),
                with_interval(place.speed_up),
                number(place.tokens_per_second, 0),
                number(place.latency),
                number(place.mat),
            )
        )
    return Table(_title(setting), HEADER, rows)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description=summary(__doc__), allow_abbrev=False)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of runs")
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)()
