"""Figures of replays: MAT with its bounds, MAT against nodes, gain by sample, along the thought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.analysis.replay_summary import ReplaySummary
from evaluation.analysis.replays import PLACES, mat
from evaluation.report.colours import colour, marker
from evaluation.report.figures import Panel, panels, save
from evaluation.report.replay_tables import bound_of, combined_mat

BOUND_COLOUR = "#666666"


@dataclass(frozen=True)
class Point:
    """One setting of a method: what a draft costs in nodes, and what it brings."""

    label: str
    method: str
    nodes: float
    """A step, root included."""
    mat: float
    low: float
    high: float
    price: float | None = None
    """Predicted speed-up; None without a cost curve."""

    @property
    def worth(self) -> float:
        return self.mat if self.price is None else self.price


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front: points that no other beats with as few nodes or fewer."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.nodes, -p.worth)):
        if not best or point.worth > best[-1].worth:
            best.append(point)
    return best


def bounded_mat(replays: Sequence[ReplaySummary]) -> Figure:
    """MAT of every method, its interval, and the bounds as lines."""

    def draw(axis: Axes, number: int) -> None:
        replay = replays[number]
        for i, (name, method) in enumerate(replay.methods.items()):
            found = mat(method.tally.of_questions())
            has_interval = found.low == found.low
            error = [[found.mean - found.low], [found.high - found.mean]] if has_interval else None
            axis.bar(i, found.mean, yerr=error, capsize=3, color=colour(name))
            top = found.high if has_interval else found.mean
            axis.text(i, top + 0.03, f"{found.mean:.2f}", ha="center", fontsize=8)
        lines = {
            "best copy, same text": bound_of(replay, "request"),
            "best copy, whole question": bound_of(replay, "question"),
            "best of the methods": combined_mat(replay),
        }
        for (label, value), style in zip(lines.items(), (":", "--", "-."), strict=True):
            if value == value:
                axis.axhline(value, color=BOUND_COLOUR, lw=1, ls=style, label=label)
        names = list(replay.methods)
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axis.set_ylabel("mean accepted tokens")

    return panels(_titles(replays), draw, Panel(has_legend=True, share_y=False))


def mat_against_nodes(replays: Sequence[ReplaySummary]) -> Figure:
    """MAT against the nodes a step verifies: what a drafted node is worth."""

    def draw(axis: Axes, number: int) -> None:
        for name, method in replays[number].methods.items():
            steps = mat(method.tally.of_questions()).steps
            nodes = 1 + steps.nodes / max(1, steps.steps)
            axis.scatter(nodes, steps.mat, color=colour(name), marker=marker(name), label=name)
        axis.set_xlabel("nodes verified a step")
        axis.set_ylabel("mean accepted tokens")

    return panels(_titles(replays), draw, Panel(has_legend=True, share_y=False))


def by_sample(replays: Sequence[ReplaySummary]) -> Figure:
    """MAT of sample 1, 2, ...: what remembering the question's earlier samples brings."""
    return _lines(replays, "samples", "sample", lambda label: int(label))


def along_the_thought(replays: Sequence[ReplaySummary]) -> Figure:
    """MAT by output position."""
    middle = {}
    for place, following in zip(PLACES, [*PLACES[1:], 2 * PLACES[-1]], strict=True):
        middle[str(place)] = (place + following) / 2
    return _lines(replays, "places", "output position (tokens)", middle.__getitem__)


def _lines(
    replays: Sequence[ReplaySummary], group: str, what: str, place: Callable[[str], float]
) -> Figure:
    def draw(axis: Axes, number: int) -> None:
        for name, method in replays[number].methods.items():
            tallies = method.tally.groups.get(group, {})
            labels = sorted(tallies, key=place)
            axis.plot(
                [place(label) for label in labels],
                [tallies[label].mat for label in labels],
                marker=marker(name),
                markersize=4,
                label=name,
                color=colour(name),
            )
        axis.set_xlabel(what)
        axis.set_ylabel("mean accepted tokens")

    return panels(_titles(replays), draw, Panel(has_legend=True, share_y=False))


def save_front(points: Sequence[Point], file: Path) -> None:
    """Every setting of a sweep, and the front of the best."""

    def draw(axis: Axes, number: int) -> None:
        for name in dict.fromkeys(point.method for point in points):
            own = [point for point in points if point.method == name]
            nodes, worth = [p.nodes for p in own], [p.worth for p in own]
            axis.scatter(nodes, worth, color=colour(name), marker=marker(name), s=24, label=name)
        best = front(points)
        axis.plot([p.nodes for p in best], [p.worth for p in best], color="#333333", lw=1)
        axis.set_xlabel("nodes verified a step")
        is_priced = any(point.price is not None for point in points)
        axis.set_ylabel("predicted speed-up" if is_priced else "mean accepted tokens")

    panel = Panel(width=6.0, height=4.2, has_legend=True)
    save(panels(["settings, and the front of the best"], draw, panel), file)


def _titles(replays: Sequence[ReplaySummary]) -> list[str]:
    return [replay.title for replay in replays]
