"""The report's figures, drawn by matplotlib, as SVG text and PNG files.

A method has one colour and one marker throughout (`plots.py`); bars are labelled, so colour never stands alone.
"""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation import acceptance, metrics, redundancy
from evaluation.comparison import Method, Setting
from evaluation.plots import colour, marker

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
                     "axes.titlesize": 10, "svg.hashsalt": "spectts"})


PHASE_COLOURS = {"verify": "#777777", "draft": "#0072B2", "accept": "#E69F00", "other": "#CC79A7", "prefill": "#009E73"}
SERIES = ("#0072B2", "#56B4E9", "#009E73", "#E69F00")
PER_ROW = 3


def panels(settings: list[Setting], draw: Callable[[Axes, Setting], None], width: float = 4.2, height: float = 3.2,
           share: bool = True, polar: bool = False, legend: bool = False) -> Figure:
    """One panel a setting, three a row; with `legend` one legend for all of them below."""
    columns, rows = min(PER_ROW, len(settings)), -(-len(settings) // PER_ROW)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, sharey=share,
                                subplot_kw={"projection": "polar"} if polar else None)
    for axis, setting in zip(axes.flat, settings):
        draw(axis, setting)
        axis.set_title(setting.title, pad=16 if polar else 6)
    for axis in axes.flat[len(settings):]:
        axis.remove()
    found = {label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels())}
    room = 0.0
    if legend and found:
        per_row = max(2, int(1.7 * columns * width / 3))
        lines = -(-len(found) // per_row)
        room = (0.25 + 0.2 * lines) / (height * rows)
        figure.legend(found.values(), found.keys(), loc="lower center", ncol=per_row, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, room, 1, 0.96 if polar else 1))  # tight_layout overlooks a polar title
    return figure


def speed_bars(settings: list[Setting]) -> Figure:
    """Speed-ups with their intervals."""

    def draw(axis: Axes, setting: Setting) -> None:
        ups = [(m.name, up) for m in setting.methods if (up := setting.speed_up(m)) is not None]
        for i, (name, up) in enumerate(ups):
            known = up.low == up.low
            error = [[up.ratio - up.low], [up.high - up.ratio]] if known else None
            axis.bar(i, up.ratio, yerr=error, capsize=3, color=colour(name))
            axis.text(i, (up.high if known else up.ratio) + 0.04, f"{up.ratio:.2f}", ha="center", fontsize=8)
        axis.set_xticks(range(len(ups)), [n for n, _ in ups], rotation=40, ha="right")
        axis.axhline(1, color="#666", linewidth=0.8, linestyle="--")
        axis.set_ylabel("speed-up over vanilla")

    return panels(settings, draw)


def radar(settings: list[Setting]) -> Figure:
    """One line a method, one spoke a category, as in the paper: speed-up on that category's questions."""

    def draw(axis: Axes, setting: Setting) -> None:
        of = categories(setting)
        names = sorted(set(of.values()))
        angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
        for method in setting.methods:
            values = [_category_speed_up(setting, method, {q for q in of if of[q] == name}) for name in names]
            axis.plot([*angles, angles[0]], [*values, values[0]], label=method.name, linewidth=1.4, markersize=4,
                      color=colour(method.name), marker=marker(method.name))
        axis.set_xticks(angles, names)
        axis.tick_params(axis="x", pad=8)
        axis.set_rlabel_position(180 / len(names))  # between the first two spokes
        axis.tick_params(axis="y", labelsize=7)

    return panels(settings, draw, width=4.0, height=4.0, polar=True, share=False, legend=True)


def categories(setting: Setting) -> dict[str, str]:
    """Category of every question vanilla has finished."""
    return {r.question_id: r.category for r in setting.vanilla.records} if setting.vanilla else {}


def _category_speed_up(setting: Setting, method: Method, questions: set[str]) -> float:
    up = setting.speed_up(method, among=questions)
    return up.ratio if up else float("nan")


def mat_against_cost(settings: list[Setting]) -> Figure:
    """Tokens a step against what a step costs: equal speed-ups lie on the dashed lines."""

    def draw(axis: Axes, setting: Setting) -> None:
        points = []
        for method in setting.methods:
            up, mat = setting.speed_up(method), metrics.mean_accepted_tokens(method.on(setting.shared(method)))
            if up is not None and mat == mat:
                points.append((method.name, mat, mat / up.ratio))
        right, top = 1.2 * max([c for *_, c in points], default=1) + 0.2, 1.2 * max([m for _, m, _ in points], default=1)
        for ratio in (0.5, 1, 1.5, 2, 3, 4, 6):
            axis.plot([0, right], [0, right * ratio], color="#ccc", linewidth=0.8, linestyle="--", zorder=0)
            end = min(right, top / ratio)
            if end > 0.8:
                axis.text(end, end * ratio, f"{ratio:g}x", color="#888", fontsize=7, ha="right", va="top")
        for name, mat, cost in points:
            axis.scatter(cost, mat, color=colour(name), marker=marker(name), s=40, label=name)
        axis.set_xlim(0.7, right)
        axis.set_ylim(0.7, top)
        axis.set_xlabel("cost of a step (vanilla steps)")
        axis.set_ylabel("mean accepted tokens")

    return panels(settings, draw, share=False, legend=True, height=3.4)


def acceptance_by_position(settings: list[Setting]) -> Figure:
    """Share of the drafts that long that were accepted up to position d."""

    def draw(axis: Axes, setting: Setting) -> None:
        for method in setting.methods:
            rates = acceptance.by_draft_position(method.records).rates()
            if rates:
                axis.plot(range(1, len(rates) + 1), rates, marker=marker(method.name), markersize=3, label=method.name,
                          color=colour(method.name))
        axis.set_xlabel("position d in the draft")
        axis.set_ylabel("accepted up to d")
        axis.set_ylim(0, 1)

    return panels(settings, draw, legend=True)


def acceptance_by_generation(settings: list[Setting]) -> Figure:
    """MAT of round 1, 2, ... or sample 1, 2, ...: what remembering a question is worth."""

    def draw(axis: Axes, setting: Setting) -> None:
        for method in setting.methods:
            tallies = acceptance.grouped(method.records, lambda r: getattr(r, setting.numbered))
            axis.plot([k + 1 for k in tallies], [t.mat for t in tallies.values()], marker=marker(method.name), markersize=4,
                      label=method.name, color=colour(method.name))
            axis.set_xticks([k + 1 for k in tallies])
        axis.set_xlabel(setting.numbered)
        axis.set_ylabel("mean accepted tokens")

    return panels(settings, draw, legend=True)


def time_breakdown(settings: list[Setting]) -> Figure:
    """Milliseconds a step by phase."""

    def draw(axis: Axes, setting: Setting) -> None:
        left = np.zeros(len(setting.methods))
        found = [(m.phases(), max(1, m.steps)) for m in setting.methods]
        for phase, tint in PHASE_COLOURS.items():
            widths = np.array([1e3 * seconds[phase] / steps for seconds, steps in found])
            axis.barh(range(len(found)), widths, left=left, color=tint, label=phase)
            left += widths
        axis.set_yticks(range(len(found)), [m.name for m in setting.methods])
        axis.invert_yaxis()
        axis.set_xlabel("milliseconds a step")

    return panels(settings, draw, share=False, legend=True)


def recurrence(tabulated: dict[str, list[list[str]]], settings: list[Setting]) -> Figure:
    """Which share of n-grams was written before; `tabulated` are the rows of `redundancy.tables` by setting."""
    groups = ("same text", "other samples", "earlier rounds", "any of them")

    def draw(axis: Axes, setting: Setting) -> None:
        rows = tabulated[setting.title]
        columns = [_shares(column) for column in zip(*(row[1:] for row in rows))]
        shown = [(name, values) for name, values in zip(groups, columns) if any(values)]
        for i, (name, values) in enumerate(shown):
            axis.bar(np.arange(len(values)) + 0.8 * (i + 0.5) / len(shown) - 0.4, values, 0.8 / len(shown), label=name,
                     color=SERIES[groups.index(name)])
        axis.set_xticks(range(len(rows)), [f"n = {row[0].split()[0]}" for row in rows])
        axis.set_ylim(0, 1)
        axis.set_ylabel("n-grams written before")

    return panels(settings, draw, legend=True)


def match_lengths(tabulated: dict[str, list[list[str]]], settings: list[Setting]) -> Figure:
    """How long the longest earlier match is before each token."""

    def draw(axis: Axes, setting: Setting) -> None:
        labels = redundancy.bin_labels()
        for i, (name, *bins) in enumerate(tabulated[setting.title]):
            axis.bar(np.arange(len(bins)) + 0.4 * i - 0.2, _shares(bins), 0.4, label=f"within the {name}", color=SERIES[i])
        axis.set_xticks(range(len(labels)), labels)
        axis.set_xlabel("longest earlier match (tokens)")
        axis.set_ylabel("share of tokens")

    return panels(settings, draw, legend=True)


def _shares(cells: Iterable[str]) -> list[float]:
    return [0.0 if cell == "-" else float(cell.split()[0]) / 100 for cell in cells]


def accuracy(settings: list[Setting], scores: dict[str, float]) -> Figure:
    """Accuracy of every method, repeats averaged; lossless methods share vanilla's height."""

    def draw(axis: Axes, setting: Setting) -> None:
        found = {m.name: [scores[str(run.path)] for run in m.runs if str(run.path) in scores] for m in setting.methods}
        found = {name: np.mean(values) for name, values in found.items() if values}
        for i, (name, score) in enumerate(found.items()):
            axis.bar(i, score, color=colour(name))
            axis.text(i, score + 0.01, f"{score:.0%}", ha="center", fontsize=8)
        axis.set_xticks(range(len(found)), list(found), rotation=40, ha="right")
        axis.set_ylim(0, 1.1)
        axis.set_ylabel("accuracy")

    return panels(settings, draw)


def svg(figure: Figure) -> str:
    """The figure as SVG for inlining: no XML header."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg"):]


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write NAME.png and NAME.svg; returns the SVG for inlining."""
    figure.savefig(folder / f"{name}.png", dpi=140)
    text = svg(figure)
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    plt.close(figure)
    return text
