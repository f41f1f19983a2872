"""The report's figures, drawn by matplotlib, as SVG text and PNG files.

Colours: Okabe and Ito's (2008), told apart by colour-blind eyes; every bar is labelled, so colour never stands alone.
"""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation import acceptance, metrics, redundancy
from evaluation.plots import COLOURS
from evaluation.report.data import Method, Setting

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
                     "axes.titlesize": 10, "svg.hashsalt": "spectts"})


def colour(name: str, names: list[str]) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def panels(settings: list[Setting], draw: Callable[[Axes, Setting], None], width: float = 4.2, height: float = 3.2,
           share: bool = True, polar: bool = False) -> Figure:
    """One panel a setting, side by side."""
    figure, axes = plt.subplots(1, len(settings), figsize=(width * len(settings), height), squeeze=False, sharey=share,
                                subplot_kw={"projection": "polar"} if polar else None)
    for axis, setting in zip(axes[0], settings):
        draw(axis, setting)
        axis.set_title(setting.title, pad=16 if polar else 6)
    figure.tight_layout()
    return figure


def all_names(settings: list[Setting]) -> list[str]:
    return sorted({m.name for s in settings for m in s.methods}, key=lambda n: (n != "vanilla", n))


def speed_bars(settings: list[Setting]) -> Figure:
    """Speed-ups with their intervals."""
    names = all_names(settings)

    def draw(axis: Axes, setting: Setting) -> None:
        ups = [(m.name, setting.speed_up(m)) for m in setting.methods]
        ups = [(n, u) for n, u in ups if u is not None]
        for i, (name, up) in enumerate(ups):
            known = up.low == up.low
            error = [[up.ratio - up.low], [up.high - up.ratio]] if known else None
            axis.bar(i, up.ratio, yerr=error, capsize=3, color=colour(name, names))
            axis.text(i, (up.high if known else up.ratio) + 0.04, f"{up.ratio:.2f}", ha="center", fontsize=8)
        axis.set_xticks(range(len(ups)), [n for n, _ in ups], rotation=40, ha="right")
        axis.axhline(1, color="#666", linewidth=0.8, linestyle="--")
        axis.set_ylabel("speed-up over vanilla")

    return panels(settings, draw)


def radar(settings: list[Setting]) -> Figure:
    """One line a method, one spoke a category, as in the paper: speed-up on that category's questions."""
    names = all_names(settings)

    def draw(axis: Axes, setting: Setting) -> None:
        if setting.vanilla is None:
            return
        of = {r.question_id: r.category for r in setting.vanilla.records}
        categories = sorted(set(of.values()))
        angles = np.linspace(0, 2 * np.pi, len(categories), endpoint=False)
        for method in setting.methods:
            values = []
            for category in categories:
                mine, base = ({q: t for q, t in side.totals.items() if of.get(q) == category}
                              for side in (method, setting.vanilla))
                shared = set(mine) & set(base)
                values.append(metrics.speed({q: mine[q] for q in shared}) / metrics.speed({q: base[q] for q in shared})
                              if shared else np.nan)
            axis.plot([*angles, angles[0]], [*values, values[0]], label=method.name, linewidth=1.4,
                      color=colour(method.name, names))
        axis.set_xticks(angles, categories)
        axis.set_rlabel_position(100)
        axis.tick_params(axis="y", labelsize=7)

    figure = panels(settings, draw, width=4.0, height=4.2, polar=True, share=False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="lower center", ncol=min(5, len(names)), fontsize=8)
    figure.subplots_adjust(bottom=0.22, top=0.84)
    return figure


def mat_against_cost(settings: list[Setting]) -> Figure:
    """Tokens a step against what a step costs: equal speed-ups lie on the dashed lines."""
    names = all_names(settings)

    def draw(axis: Axes, setting: Setting) -> None:
        points = [(m, metrics.mean_accepted_tokens(m.records), setting.speed_up(m)) for m in setting.methods]
        points = [(m, mat, mat / up.ratio) for m, mat, up in points if up is not None and mat == mat]
        top = max([cost for *_, cost in points], default=1) * 1.25 + 0.2
        for ratio in (0.5, 1, 1.5, 2, 3, 4):
            axis.plot([0, top], [0, top * ratio], color="#ccc", linewidth=0.8, linestyle="--", zorder=0)
            axis.annotate(f"{ratio:g}x", (top * 0.97, top * ratio * 0.97), color="#888", fontsize=7, annotation_clip=True)
        for method, mat, cost in points:
            axis.scatter(cost, mat, color=colour(method.name, names), s=36)
            axis.annotate(method.name, (cost, mat), xytext=(4, 3), textcoords="offset points", fontsize=8)
        axis.set_xlim(0.7, top)
        axis.set_ylim(0.7, max([mat for _, mat, _ in points], default=1) * 1.15)
        axis.set_xlabel("cost of a step (vanilla steps)")
        axis.set_ylabel("mean accepted tokens")

    return panels(settings, draw)


def acceptance_by_position(settings: list[Setting]) -> Figure:
    """Share of drafting steps in which the d-th drafted token was accepted."""
    names = all_names(settings)

    def draw(axis: Axes, setting: Setting) -> None:
        for method in setting.methods:
            survival = acceptance.by_draft_position(method.records)
            rates = [survival.rate(d) for d in range(1, 13)]
            if survival.steps:
                axis.plot(range(1, 13), rates, marker="o", markersize=3, label=method.name,
                          color=colour(method.name, names))
        axis.set_xlabel("position in the draft")
        axis.set_ylabel("accepted")
        axis.set_ylim(0, 1)
        axis.legend(fontsize=7, ncol=2)

    return panels(settings, draw)


def acceptance_by_generation(settings: list[Setting]) -> Figure:
    """MAT of round 1, 2, ... or sample 1, 2, ...: what remembering a question is worth."""
    names = all_names(settings)

    def draw(axis: Axes, setting: Setting) -> None:
        what = "sample" if setting.paradigm == "best_of_n" else "round"
        for method in setting.methods:
            tallies = acceptance.grouped(method.records, lambda r: getattr(r, what))
            axis.plot([k + 1 for k in tallies], [t.mat for t in tallies.values()], marker="o", markersize=4,
                      label=method.name, color=colour(method.name, names))
            axis.set_xticks([k + 1 for k in tallies])
        axis.set_xlabel(what)
        axis.set_ylabel("mean accepted tokens")
        axis.legend(fontsize=7, ncol=2)

    return panels(settings, draw)


def time_breakdown(settings: list[Setting]) -> Figure:
    """Milliseconds a step by phase."""
    phases = ("verify", "draft", "accept", "other")

    def draw(axis: Axes, setting: Setting) -> None:
        left = np.zeros(len(setting.methods))
        shares = [m.phases() for m in setting.methods]
        for phase, tint in zip(phases, COLOURS):
            widths = np.array([1e3 * s[phase] for s in shares])
            axis.barh(range(len(setting.methods)), widths, left=left, color=tint, label=phase)
            left += widths
        axis.set_yticks(range(len(setting.methods)), [m.name for m in setting.methods])
        axis.invert_yaxis()
        axis.set_xlabel("milliseconds a step")
        axis.legend(fontsize=7)

    return panels(settings, draw, share=False)


def recurrence(settings: list[Setting]) -> Figure:
    """Which share of n-grams was written before, in the same text and in the question's earlier ones."""

    def draw(axis: Axes, setting: Setting) -> None:
        method = _text_of(setting)
        found = {n: redundancy.recurrence(method.records, n) for n in redundancy.SIZES}
        for i, name in enumerate(("own", "samples", "rounds", "any")):
            values = [found[n][name] for n in redundancy.SIZES]
            axis.bar(np.arange(len(values)) + 0.2 * i - 0.3, values, 0.2, label=name, color=COLOURS[i])
        axis.set_xticks(range(len(redundancy.SIZES)), [f"{n}-grams" for n in redundancy.SIZES])
        axis.set_ylim(0, 1)
        axis.set_ylabel("seen before")
        axis.legend(fontsize=7)

    return panels(settings, draw)


def match_lengths(settings: list[Setting]) -> Figure:
    """How long the longest earlier match is before each token."""
    labels = [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in zip(redundancy.MATCHES, redundancy.MATCHES[1:])]
    labels.append(f"{redundancy.MATCHES[-1]}+")

    def draw(axis: Axes, setting: Setting) -> None:
        for i, (name, bins) in enumerate(redundancy.longest_matches(_text_of(setting).records).items()):
            axis.bar(np.arange(len(bins)) + 0.4 * i - 0.2, bins, 0.4, label=name, color=COLOURS[i])
        axis.set_xticks(range(len(labels)), labels)
        axis.set_xlabel("longest earlier match (tokens)")
        axis.set_ylabel("share of tokens")
        axis.legend(fontsize=7)

    return panels(settings, draw)


def accuracy_beside_speed(settings: list[Setting], scores: dict[str, float]) -> Figure:
    """Accuracy (by file) against tokens a second: lossless methods share vanilla's height."""
    names = all_names(settings)

    def draw(axis: Axes, setting: Setting) -> None:
        for method in setting.methods:
            score = scores.get(str(method.runs[0].path))
            if score is not None and method.totals:
                axis.scatter(metrics.speed(method.totals), score, color=colour(method.name, names), s=36)
                axis.annotate(method.name, (metrics.speed(method.totals), score), xytext=(2, 5), rotation=45,
                              textcoords="offset points", fontsize=8)
        axis.set_ylim(0, 1.08)
        axis.set_xlabel("tokens/s")
        axis.set_ylabel("accuracy")

    return panels(settings, draw)


def _text_of(setting: Setting) -> Method:
    """The texts are the same for every lossless method: vanilla's stand for all."""
    return setting.vanilla or setting.methods[0]


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
