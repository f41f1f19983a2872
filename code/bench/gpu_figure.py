"""The picture of what `gpu.py` measured: verification against nodes, step costs, texts together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes

from evaluation.report.colours import colour
from evaluation.report.figures import Panel, panels, save


@dataclass(frozen=True)
class Curve:
    """Seconds of a step against a number."""

    name: str
    numbers: Sequence[int]
    seconds: Sequence[float]


@dataclass
class Measured:
    """What there is to draw, as far as it was measured."""

    verify: list[Curve] = field(default_factory=list)
    """Against nodes."""
    costs: dict[str, float] = field(default_factory=dict)
    """Vanilla steps that a method's step takes."""
    together: list[Curve] = field(default_factory=list)
    """Against texts decoded together."""


def draw(measured: Measured, file: Path) -> None:
    """Write the figure; nothing where nothing was measured."""
    drawn: dict[str, Callable[[Axes], None]] = {}
    if measured.verify:
        drawn["verifying n nodes"] = lambda axis: _curves(axis, measured.verify, "nodes")
    if measured.costs:
        drawn["a step of each method"] = lambda axis: _costs(axis, measured.costs)
    if measured.together:
        drawn["texts decoded together"] = lambda axis: _curves(axis, measured.together, "texts")
    if drawn:
        titles = list(drawn)
        figure = panels(
            titles, lambda axis, i: drawn[titles[i]](axis), Panel(width=6.0, height=4.5)
        )
        save(figure, file)


def _curves(axis: Axes, curves: Sequence[Curve], counted: str) -> None:
    """In steps of the first number."""
    highest = 1.0
    for curve in curves:
        heights = [seconds / curve.seconds[0] for seconds in curve.seconds]
        highest = max(highest, *heights)
        axis.plot(curve.numbers, heights, marker="o", label=curve.name)
    numbers = sorted({number for curve in curves for number in curve.numbers})
    axis.set_xscale("log", base=2)
    axis.set_xticks(numbers, [str(number) for number in numbers])
    axis.minorticks_off()
    axis.set_xlabel(counted)
    axis.set_ylabel("time of a step, in steps of 1")
    axis.set_ylim(0, 1.05 * highest)
    axis.legend(fontsize="small")


def _costs(axis: Axes, costs: dict[str, float]) -> None:
    names = list(costs)
    axis.barh(names, list(costs.values()), color=[colour(name) for name in names])
    axis.axvline(1, color=colour("vanilla"), lw=1)
    axis.invert_yaxis()
    axis.set_xlabel("vanilla steps")
