"""The figures, drawn by matplotlib from analysis' results; as SVG text and PNG files.

Bars are labelled, so colour never stands alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.analysis.metrics import NAN
from evaluation.analysis.redundancy import Recurrence
from evaluation.analysis.results import SettingResult, SpeedResult
from evaluation.report.colours import PHASE_COLOURS, SERIES, colour, marker
from evaluation.report.run_charts import SAME_SPEED_UP
from evaluation.report.tables import match_labels
from model.errors import UserError

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",
        "axes.titlesize": 10,
        "svg.hashsalt": "spectts",
        "text.parse_math": False,  # names are data: a dollar sign in them is one
    }
)
PER_ROW = 3


@dataclass(frozen=True)
class Panel:
    """How a figure's panels look: one a setting, three a row."""

    width: float = 4.2
    height: float = 3.2
    share_y: bool = True
    is_polar: bool = False
    has_legend: bool = False
    """One legend for all panels, below them."""


def panels(
    titles: Sequence[str],
    draw: Callable[[Axes, int], None],
    panel: Panel = Panel(),
) -> Figure:
    """One panel a title; `draw(axis, number)` fills it."""
    columns, rows = min(PER_ROW, len(titles)), -(-len(titles) // PER_ROW)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(panel.width * columns, panel.height * rows),
        squeeze=False,
        sharey=panel.share_y,
        subplot_kw={"projection": "polar"} if panel.is_polar else None,
    )
    for number, title in enumerate(titles):
        axis = axes.flat[number]
        draw(axis, number)
        axis.set_title(title, pad=16 if panel.is_polar else 6)
    for axis in axes.flat[len(titles) :]:
        axis.remove()
    room = _legend_below(figure, panel, columns, rows) if panel.has_legend else 0.0
    # tight_layout overlooks a polar title
    figure.tight_layout(rect=(0, room, 1, 0.96 if panel.is_polar else 1))
    return figure


def _legend_below(figure: Figure, panel: Panel, columns: int, rows: int) -> float:
    """Draw one legend for all panels; returns the share of the height it takes."""
    handles = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    if not handles:
        return 0.0
    per_row = max(2, int(1.7 * columns * panel.width / 3))
    lines = -(-len(handles) // per_row)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower center",
        ncol=per_row,
        fontsize=8,
        frameon=False,
    )
    return (0.25 + 0.2 * lines) / (panel.height * rows)


def titles_of(settings: Sequence[SettingResult]) -> list[str]:
    """One panel's title a setting."""
    return [setting.title for setting in settings]


def speed_bars(settings: Sequence[tuple[str, Sequence[SpeedResult]]]) -> Figure:
    """Speed-ups with their intervals, a panel a setting: (title, results)."""

    def draw(axis: Axes, number: int) -> None:
        shown = [result for result in settings[number][1] if result.speed_up]
        for i, result in enumerate(shown):
            up = result.speed_up
            assert up is not None
            error = [[up.ratio - up.low], [up.high - up.ratio]] if up.has_interval else None
            axis.bar(i, up.ratio, yerr=error, capsize=3, color=colour(result.method))
            top = up.high if up.has_interval else up.ratio
            axis.text(i, top + 0.04, f"{up.ratio:.2f}", ha="center", fontsize=8)
        names = [result.method for result in shown]
        axis.set_xticks(range(len(shown)), names, rotation=40, ha="right")
        axis.axhline(1, color="#666", linewidth=0.8, linestyle="--")
        axis.set_ylabel("speed-up over vanilla")

    return panels([title for title, _ in settings], draw)


def speed(settings: Sequence[SettingResult]) -> Figure:
    """`speed_bars` of whole settings."""
    shown = []
    for result in settings:
        speeds = [method.speed for method in result.methods]
        shown.append((result.title, speeds))
    return speed_bars(shown)


def radar(settings: Sequence[SettingResult]) -> Figure:
    """One line a method, one spoke a category, as in the paper: speed-up on its questions."""

    def draw(axis: Axes, number: int) -> None:
        methods = settings[number].methods
        categories = list(methods[0].by_category)
        angles = np.linspace(0, 2 * np.pi, len(categories), endpoint=False)
        for method in methods:
            ratios = [method.by_category.get(category, NAN) for category in categories]
            axis.plot(
                [*angles, angles[0]],
                [*ratios, ratios[0]],
                label=method.name,
                linewidth=1.4,
                markersize=4,
                color=colour(method.name),
                marker=marker(method.name),
            )
        axis.set_xticks(angles, categories)
        axis.tick_params(axis="x", pad=8)
        axis.set_rlabel_position(180 / len(categories))  # type: ignore[attr-defined]
        axis.tick_params(axis="y", labelsize=7)

    panel = Panel(width=4.0, height=4.0, share_y=False, is_polar=True, has_legend=True)
    return panels(titles_of(settings), draw, panel)


def mat_against_cost(settings: Sequence[SettingResult]) -> Figure:
    """Tokens a step against what a step costs: equal speed-ups lie on the dashed lines."""

    def draw(axis: Axes, number: int) -> None:
        points = []
        for method in settings[number].methods:
            mat, cost = method.speed.mat, method.speed.cost
            if cost is not None and mat == mat:
                points.append((method.name, mat, cost))
        right = 1.2 * max((cost for _, _, cost in points), default=1) + 0.2
        top = 1.2 * max((mat for _, mat, _ in points), default=1)
        for ratio in SAME_SPEED_UP:
            axis.plot([0, right], [0, right * ratio], color="#ccc", lw=0.8, ls="--", zorder=0)
            end = min(right, top / ratio)
            if end > 0.8:
                label = axis.text(end, end * ratio, f"{ratio:g}x", color="#888", fontsize=7)
                label.set(ha="right", va="top")
        for name, mat, cost in points:
            axis.scatter(cost, mat, color=colour(name), marker=marker(name), s=40, label=name)
        axis.set_xlim(0.7, right)
        axis.set_ylim(0.7, top)
        axis.set_xlabel("cost of a step (vanilla steps)")
        axis.set_ylabel("mean accepted tokens")

    panel = Panel(share_y=False, has_legend=True, height=3.4)
    return panels(titles_of(settings), draw, panel)


def acceptance_by_position(settings: Sequence[SettingResult]) -> Figure:
    """Share of the drafts that long that were accepted up to position d."""

    def draw(axis: Axes, number: int) -> None:
        for method in settings[number].methods:
            rates = method.acceptance.positions
            if rates:
                axis.plot(
                    range(1, len(rates) + 1),
                    rates,
                    marker=marker(method.name),
                    markersize=3,
                    label=method.name,
                    color=colour(method.name),
                )
        axis.set_xlabel("position d in the draft")
        axis.set_ylabel("accepted up to d")
        axis.set_ylim(0, 1)

    return panels(titles_of(settings), draw, Panel(has_legend=True))


def acceptance_by_generation(settings: Sequence[SettingResult]) -> Figure:
    """MAT of round 1, 2, ... or sample 1, 2, ...: what remembering a question is worth."""

    def draw(axis: Axes, number: int) -> None:
        for method in settings[number].methods:
            tallies = method.acceptance.generations
            places = [generation + 1 for generation in tallies]
            axis.plot(
                places,
                [tally.mat for tally in tallies.values()],
                marker=marker(method.name),
                markersize=4,
                label=method.name,
                color=colour(method.name),
            )
            axis.set_xticks(places)
        axis.set_xlabel(settings[number].numbered)
        axis.set_ylabel("mean accepted tokens")

    return panels(titles_of(settings), draw, Panel(has_legend=True))


def time_breakdown(settings: Sequence[SettingResult]) -> Figure:
    """Milliseconds a step by phase."""

    def draw(axis: Axes, number: int) -> None:
        methods = settings[number].methods
        left = np.zeros(len(methods))
        for phase, tint in PHASE_COLOURS.items():
            widths = np.array([method.time.per_step(phase) for method in methods])
            axis.barh(range(len(methods)), widths, left=left, color=tint, label=phase)
            left += widths
        names = [method.name for method in methods]
        axis.set_yticks(range(len(methods)), names)
        axis.invert_yaxis()
        axis.set_xlabel("milliseconds a step")

    panel = Panel(share_y=False, has_legend=True)
    return panels(titles_of(settings), draw, panel)


def recurrence(settings: Sequence[SettingResult]) -> Figure:
    """Which share of n-grams was written before."""
    groups: dict[str, Callable[[Recurrence], float]] = {
        "same text": lambda share: share.same_text,
        "other samples": lambda share: share.other_samples,
        "earlier rounds": lambda share: share.earlier_rounds,
        "any of them": lambda share: share.anywhere,
    }

    def draw(axis: Axes, number: int) -> None:
        by_size = settings[number].redundancy.recurrence
        bars = {}
        for name, share_of in groups.items():
            shares = np.nan_to_num([share_of(recurrence) for recurrence in by_size.values()])
            if shares.any():
                bars[name] = shares
        width = 0.8 / max(1, len(bars))
        for i, (name, shares) in enumerate(bars.items()):
            places = np.arange(len(shares)) + width * (i + 0.5) - 0.4
            tint = SERIES[list(groups).index(name)]
            axis.bar(places, shares, width, label=name, color=tint)
        axis.set_xticks(range(len(by_size)), [f"n = {n}" for n in by_size])
        axis.set_ylim(0, 1)
        axis.set_ylabel("n-grams written before")

    return panels(titles_of(settings), draw, Panel(has_legend=True))


def match_lengths(settings: Sequence[SettingResult]) -> Figure:
    """How long the longest earlier match is before each token."""
    labels = match_labels()

    def draw(axis: Axes, number: int) -> None:
        matches = settings[number].redundancy.matches
        histograms = {"same text": matches.same_text, "whole question": matches.whole_question}
        for i, (name, shares) in enumerate(histograms.items()):
            places = np.arange(len(shares)) + 0.4 * i - 0.2
            axis.bar(places, shares, 0.4, label=f"within the {name}", color=SERIES[i])
        axis.set_xticks(range(len(labels)), labels)
        axis.set_xlabel("longest earlier match (tokens)")
        axis.set_ylabel("share of tokens")

    return panels(titles_of(settings), draw, Panel(has_legend=True))


def accuracy(settings: Sequence[tuple[str, dict[str, float]]]) -> Figure:
    """Accuracy of every method, (title, accuracy by method); lossless methods share a height."""

    def draw(axis: Axes, number: int) -> None:
        scores = settings[number][1]
        for i, (name, score) in enumerate(scores.items()):
            axis.bar(i, score, color=colour(name))
            axis.text(i, score + 0.01, f"{score:.0%}", ha="center", fontsize=8)
        axis.set_xticks(range(len(scores)), list(scores), rotation=40, ha="right")
        axis.set_ylim(0, 1.1)
        axis.set_ylabel("accuracy")

    return panels([title for title, _ in settings], draw)


def save(figure: Figure, file: Path) -> None:
    """Write one file, PNG, SVG or PDF by its name; raises UserError where that cannot be done."""
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {file}: {error}") from None
    finally:
        plt.close(figure)


def save_for_paper(figure: Figure, folder: Path, name: str) -> None:
    """NAME.pdf and NAME.svg, equal from call to call."""
    try:
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    except OSError as error:
        raise UserError(f"cannot write {folder / name}: {error.strerror}") from None
    finally:
        plt.close(figure)


def font_size(points: float) -> contextlib.AbstractContextManager[None]:
    """Of all text in figures that are made while it is entered."""
    return plt.rc_context({"font.size": points, "axes.titlesize": points + 1})
