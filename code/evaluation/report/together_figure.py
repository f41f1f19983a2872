"""Figures of samples decoded together, for papers."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.analysis.together import BASE, Point
from evaluation.report.colours import colour, marker
from evaluation.report.figures import Panel, panels
from evaluation.report.together import HEIGHTS, height_of


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
    heights = [height_of(point, what) for point in points]
    axis.plot(together, heights, color=colour(name), marker=marker(name), label=name)
    for point, height in zip(points, heights, strict=True):
        if point.is_faster is False and name != BASE:
            axis.plot(
                [point.together], [height], color=colour(name), marker=marker(name),
                markerfacecolor="white", linestyle="none",
            )  # fmt: skip
