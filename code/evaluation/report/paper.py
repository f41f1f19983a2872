"""What a paper takes from a report: figures as PDF and SVG, and every table in LaTeX.

`tables.tex` is a document that compiles as it is (LaTeX with graphicx and geometry); its tables can
be copied into another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from evaluation.analysis.replay_summary import ReplaySummary
from evaluation.analysis.results import SettingResult
from evaluation.analysis.together import Point, has_several
from evaluation.records.writer import write_atomically
from evaluation.report import figures, replay_figures, together, together_figure, topics
from evaluation.report.entries import Entry
from model.errors import printable

FEWEST_SPOKES = 3
TEXT_WIDTH = 6.75
"""Inches: both columns of a conference paper. A figure of one panel is as wide as one column."""
COLUMN = 3.3
HEADROOM = 1.15
"""Height is kept a little larger than the width's share, for legends."""
FONT_SIZE = 7
PREAMBLE = r"""\documentclass{article}
\usepackage[margin=15mm]{geometry}
\usepackage{graphicx}
\newcommand{\fitted}[1]{\setbox0\hbox{#1}%
\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\box0}\else\box0\fi}
\begin{document}
"""
Accuracy = Sequence[tuple[str, dict[str, float]]]
"""(title, accuracy by method)."""


def write_figures(
    results: Sequence[SettingResult],
    accuracy: Accuracy,
    replays: Sequence[ReplaySummary],
    points: Sequence[Point],
    folder: Path,
) -> None:
    """Every figure that can be drawn, as NAME.pdf and NAME.svg."""
    for name, make in _makers(results, accuracy, replays, points):
        with figures.font_size(FONT_SIZE):
            figure = make()
            _fit(figure)
            figures.save_for_paper(figure, folder, name)


def _makers(
    results: Sequence[SettingResult],
    accuracy: Accuracy,
    replays: Sequence[ReplaySummary],
    points: Sequence[Point],
) -> list[tuple[str, Callable[[], Figure]]]:
    with_vanilla = [result for result in results if result.has_vanilla]
    with_spokes = [r for r in with_vanilla if len(r.methods[0].by_category) >= FEWEST_SPOKES]
    kinds: list[tuple[str, Callable[[Sequence[SettingResult]], Figure], list[SettingResult]]] = [
        ("speed", figures.speed, with_vanilla),
        ("cost", figures.mat_against_cost, with_vanilla),
        ("radar", figures.radar, with_spokes),
        ("position", figures.acceptance_by_position, list(results)),
        ("generation", figures.acceptance_by_generation, list(results)),
        ("time", figures.time_breakdown, list(results)),
        ("recurrence", figures.recurrence, list(results)),
        ("matches", figures.match_lengths, list(results)),
    ]
    makers: list[tuple[str, Callable[[], Figure]]] = []
    for name, make, shown in kinds:
        if shown:
            makers.append((name, partial(make, shown)))
    if accuracy:
        makers.append(("accuracy", partial(figures.accuracy, accuracy)))
    if replays:
        of_replays = {
            "replay_mat": replay_figures.bounded_mat,
            "replay_nodes": replay_figures.mat_against_nodes,
            "replay_samples": replay_figures.by_sample,
            "replay_places": replay_figures.along_the_thought,
        }
        for name, draw in of_replays.items():
            makers.append((name, partial(draw, replays)))
    if has_several(points):
        for what in together.drawable(points):
            makers.append((f"parallel-{what}", partial(together_figure.figure, points, what)))
    return makers


def _fit(figure: Figure) -> None:
    """To the width of a paper's text, or of a column where there is one panel."""
    width, height = figure.get_size_inches()
    panels = len({axis.get_position().x0 for axis in figure.axes})
    wanted = COLUMN if panels == 1 else TEXT_WIDTH
    figure.set_size_inches(wanted, height * wanted / width * HEADROOM)


def write_tables(entries: Sequence[Entry], definitions: str, folder: Path) -> None:
    """`tables.tex`: all but the commands that were run."""
    parts = [PREAMBLE]
    for entry in entries:
        parts.append(f"\\section*{{{escaped(entry.title)}}}")
        for table in entry.tables:
            if table.topic == topics.HOW:
                continue
            parts.append(f"\\subsection*{{{escaped(table.title)}}}")
            parts.append("\\noindent\\fitted{%\n" + table.text("latex") + "}")
    parts.append(f"\\begin{{verbatim}}\n{definitions}\n\\end{{verbatim}}\n\\end{{document}}\n")
    write_atomically(folder / "tables.tex", "\n\n".join(parts))


def escaped(text: str) -> str:
    """Text in which LaTeX sees no commands."""
    plain = re.sub(r"([_%&#${}])", r"\\\1", printable(text).replace("\\", "/"))
    return re.sub(r"([\^~])", r"\\\1{}", plain)
