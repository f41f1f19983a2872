"""Figures and table of speed against how many samples are decoded together."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.analysis.together import BASE, Point, is_scored
from evaluation.report.colours import colour, marker
from evaluation.report.figures import Panel, panels
from evaluation.report.formatting import UNKNOWN, Table, number, with_interval

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
MEANINGS = """\
together   samples of a question decoded in one forward
speed-up   over vanilla with as many together; verdict as in the speed table
           a hollow marker: not faster than that vanilla, drafting does not pay
tokens/s   of all samples under way
latency    seconds from the group's beginning to a sample's end, mean
s / correct  seconds of all samples over right answers, by python -m evaluation.score"""


def drawable(points: Sequence[Point]) -> list[str]:
    """Which of HEIGHTS are known."""
    return [what for what in HEIGHTS if what != "cost" or is_scored(points)]


def figure(points: Sequence[Point], what: str) -> Figure:
    """Of every setting one of HEIGHTS against the number together."""
    settings = list(dict.fromkeys(point.setting for point in points))

    def draw(axis: Axes, which: int) -> None:
        chosen = [point for point in points if point.setting == settings[which]]
        for name in dict.fromkeys(point.speed.method for point in chosen):
            own = [point for point in chosen if point.speed.method == name]
            _draw_method(axis, name, own, what)
        numbers = sorted({point.together for point in chosen})
        axis.set_xscale("log", base=2)
        axis.set_xticks(numbers, [str(n) for n in numbers])
        axis.minorticks_off()
        axis.set_xlabel("samples decoded together")
        axis.set_ylabel(HEIGHTS[what])
        if what == "speed-up":
            axis.axhline(1, color=colour(BASE), lw=1)

    return panels(settings, draw, Panel(width=6.0, height=4.2, has_legend=True))


def _draw_method(axis: Axes, name: str, points: Sequence[Point], what: str) -> None:
    """A line; hollow where drafting does not pay."""
    together = [point.together for point in points]
    heights = [_height(point, what) for point in points]
    axis.plot(together, heights, color=colour(name), marker=marker(name), label=name)
    for point, height in zip(points, heights, strict=True):
        if point.is_faster is False and name != BASE:
            axis.plot(
                [point.together], [height], color=colour(name), marker=marker(name),
                markerfacecolor="white", linestyle="none",
            )  # fmt: skip


def _height(point: Point, what: str) -> float:
    assert point.speed.speed_up is not None
    heights = {
        "speed-up": point.speed.speed_up.ratio,
        "tokens": point.speed.tokens_per_second,
        "cost": point.cost,
    }
    return heights[what]


def table(title: str, points: Sequence[Point]) -> Table:
    """Of one setting."""
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
