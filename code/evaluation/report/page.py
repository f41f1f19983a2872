"""The report's page: answers, charts, tables and viewer in one HTML file that needs nothing else.

The page itself is the template `templates/page.html.j2`. Vega-Lite, which draws the charts, comes
with vl-convert, Altair's own converter: one script of 0.9 MB with Vega and its tooltips; Plotly's
basic bundle is 1.1 MB, its Python package holds only the whole one of 4.6 MB.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from evaluation.report.answers import ShownAnswer, shown
from evaluation.report.colours import colour, glyph
from evaluation.report.entries import FACETS, Entry, Export, methods_in_order
from evaluation.report.formatting import Table
from evaluation.report.topics import TOPICS, Topic


@dataclass(frozen=True)
class NumberedTable:
    """A table, and the number of its entry on the page."""

    entry: int
    title: str
    table: Table


@dataclass(frozen=True)
class NumberedAnswer:
    """An answer, and the number of its entry on the page."""

    entry: int
    answer: ShownAnswer


@dataclass(frozen=True)
class Section:
    """A topic with what there is on it."""

    topic: Topic
    tables: tuple[NumberedTable, ...]


def sections(entries: Sequence[Entry]) -> list[Section]:
    """The topics on which there is anything, in the page's order."""
    found = []
    for topic in TOPICS:
        tables = []
        has_charts = False
        for number, entry in enumerate(entries):
            has_charts |= any(chart.topic == topic.name for chart in entry.charts)
            for table in entry.tables:
                if table.topic == topic.name:
                    tables.append(NumberedTable(number, entry.title, table))
        if has_charts or tables:
            found.append(Section(topic, tuple(tables)))
    return found


def data(entries: Sequence[Entry]) -> dict[str, Any]:
    """What `page.js` reads."""
    shown = []
    for entry in entries:
        shown.append(entry.as_json() | {"tables": []})  # the template has them
    methods = []
    for name in order(entries):
        methods.append({"name": name, "colour": colour(name), "glyph": glyph(name)})
    return {"entries": shown, "facets": list(FACETS), "methods": methods}


def order(entries: Sequence[Entry]) -> list[str]:
    """All methods of the page, in its order."""
    answers = [entry.answer for entry in entries if entry.answer]
    return methods_in_order(answers, chain.from_iterable(entry.methods for entry in entries))


@functools.cache
def chart_library() -> str:
    """Vega, Vega-Lite and what embeds them, as one script."""
    import vl_convert  # takes two seconds to bundle: not before a page is written

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def render(export: Export, viewer: Mapping[str, Any]) -> str:
    """The whole page; `viewer` is the viewer's data."""
    environment = Environment(
        loader=PackageLoader("evaluation.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # and unsorted
    package = files("evaluation.report")
    answers = []
    for number, entry in enumerate(export.entries):
        if entry.answer:
            answers.append(NumberedAnswer(number, shown(entry.answer)))
    parts = {}
    for name in ("style.css", "charts.js", "viewer.js", "page.js"):
        parts[name.replace(".", "_")] = package.joinpath(name).read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        title=export.title,
        subtitle=export.subtitle,
        answers=answers,
        sections=sections(export.entries),
        data=data(export.entries),
        viewer=viewer,
        notices=export.notices,
        definitions=export.definitions,
        library=chart_library(),
        **parts,
    )
