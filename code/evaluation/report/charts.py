"""Pictures that one can ask: Vega-Lite charts with their rows, as the page embeds them.

A chart's rows are also its table and its CSV file, so every row is told by its columns alone. A row
that names a `method`, a `number` (of a round or sample) or a `category` leads to these generations.

Vega-Lite (Satyanarayan et al. 2017): https://vega.github.io/vega-lite/docs/
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from evaluation.report.checks import checked, texts
from evaluation.report.colours import colour, vega_marker

Spec = dict[str, Any]
Row = dict[str, Any]

HIDDEN = "hidden"
"""The parameter by which the page hides methods."""
HEIGHT = 230
"""Pixels."""
BAR_STEP = 22
"""Pixels of a row of bars."""


@dataclass(frozen=True)
class Column:
    """A field of a chart's rows: its name for people, and its d3 format (empty: as it is)."""

    field: str
    title: str
    format: str = ""

    def channel(
        self, kind: str = "quantitative", title: str = "", ticks: int = 0, **more: Any
    ) -> Spec:
        """An encoding channel of this field; the axis has its title, or another."""
        axis: Spec = {"title": title or self.title}
        if self.format.endswith("%"):
            axis["format"] = self.format
        if not self.format and kind == "quantitative":
            axis |= {"format": "d", "tickMinStep": 1}
        if ticks:
            axis["tickCount"] = ticks
        return {"field": self.field, "type": kind, "axis": axis, **more}


@dataclass(frozen=True)
class Chart:
    """A picture of one setting."""

    name: str
    """Its kind: equal kinds of several settings are shown side by side."""
    topic: str
    """The section of the page."""
    heading: str
    text: str
    """What it shows, in a sentence."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    spec: Spec
    """Vega-Lite, without its rows."""

    def as_json(self) -> dict[str, Any]:
        """As the page and an exported entry hold it."""
        return {
            "name": self.name,
            "topic": self.topic,
            "heading": self.heading,
            "text": self.text,
            "columns": [[c.field, c.title, c.format] for c in self.columns],
            "rows": [_finite(row) for row in self.rows],
            "spec": self.spec,
        }

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Chart:
        """Raises LookupError or TypeError where `data` is no chart."""
        spec = data["spec"]
        if not isinstance(spec, dict) or not isinstance(spec.get("layer"), list):
            raise TypeError("a chart without layers")
        return cls(
            name=checked(data["name"], str),
            topic=checked(data["topic"], str),
            heading=checked(data["heading"], str),
            text=checked(data["text"], str),
            columns=tuple(Column(*texts(column)) for column in data["columns"]),
            rows=tuple(map(_row_of_json, data["rows"])),
            spec=spec,
        )

    def complete(self) -> Spec:
        """The specification with its rows, for Vega-Lite alone."""
        return {**self.spec, "data": {"values": [_finite(row) for row in self.rows]}}


def _row_of_json(data: Any) -> Row:
    for name, value in checked(data, dict).items():
        checked(value, *(str,) if name == "method" else (str, int, float, NoneType))
    return dict(data)


def _finite(row: Row) -> Row:
    """JSON has no NaN: what is not known is null."""
    return {key: None if _is_nan(value) else value for key, value in row.items()}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def layered(
    layers: Sequence[Spec], columns: Sequence[Column], height: int = HEIGHT, **shared: Spec
) -> Spec:
    """Layers over the same rows, as wide as the page lets them; `shared` are channels of all.

    Hovering tells the columns; methods that the page hides are left out.
    """
    shown = []
    for layer in layers:
        own = dict(layer)
        if "data" not in own:
            own["encoding"] = {**own.get("encoding", {}), "tooltip": tooltip(columns)}
        shown.append(own)
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": [{"name": HIDDEN, "value": []}],
        "transform": [{"filter": f"indexof({HIDDEN}, datum.method) < 0"}],
        "encoding": shared,
        "layer": shown,
    }


def bars_height(methods: int, step: int = BAR_STEP) -> int:
    """Of so many bars below each other, pixels."""
    return step * max(1, methods)


def tooltip(columns: Sequence[Column]) -> list[Spec]:
    """What hovering tells."""
    told = []
    for column in columns:
        entry: Spec = {"field": column.field, "title": column.title}
        if column.format:
            entry |= {"format": column.format, "type": "quantitative"}
        else:
            entry["type"] = "nominal"
        told.append(entry)
    return told


def method_colour(methods: Sequence[str]) -> Spec:
    """One colour a method."""
    return _by_method(methods, map(colour, methods))


def method_shape(methods: Sequence[str]) -> Spec:
    """One shape a method, beside its colour."""
    return _by_method(methods, map(vega_marker, methods))


def _by_method(methods: Sequence[str], values: Iterable[str]) -> Spec:
    """The page itself has the legend of methods."""
    return {
        "field": "method",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(methods), "range": list(values)},
    }


def bars(value: Column, colours: Spec, **more: Any) -> Spec:
    """A layer of bars to the right; `more` are options of the value's channel."""
    return {
        "mark": {"type": "bar", "height": {"band": 0.7}},
        "encoding": {"x": value.channel(**more), "color": colours},
    }


def intervals(value: Column) -> Spec:
    """A layer of lines over the bars, from the rows' `low` to their `high`."""
    low = Column("low", value.title, value.format)
    return {
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {"x": low.channel(), "x2": {"field": "high"}},
    }


def series_colour(field: str, names: Sequence[str], colours: Sequence[str]) -> Spec:
    """Of what is no method; with a legend below the chart."""
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": list(names), "range": list(colours)[: len(names)]},
        "legend": {"orient": "bottom", "title": None, "columns": 2},
    }


def method_axis(methods: Sequence[str]) -> Spec:
    """Methods down the side, in the page's order."""
    return {
        "field": "method",
        "type": "nominal",
        "sort": list(methods),
        "axis": {"title": None, "labelLimit": 160},
    }


def lines(
    x: Column,
    y: Column,
    columns: Sequence[Column],
    methods: Sequence[str],
    x_kind: str = "ordinal",
    x_scale: Spec | None = None,
    y_scale: Spec | None = None,
) -> Spec:
    """A line with points for every method."""
    horizontal = x.channel(x_kind)
    if x_kind == "ordinal":
        horizontal["axis"] = {"title": x.title, "labelAngle": 0, "labelOverlap": True}
    if x_scale:
        horizontal["scale"] = x_scale
    return layered(
        [
            {"mark": {"type": "line", "strokeWidth": 1.5}},
            {
                "mark": {"type": "point", "filled": True, "size": 45},
                "encoding": {"shape": method_shape(methods)},
            },
        ],
        columns,
        x=horizontal,
        y=y.channel(scale=y_scale or {"zero": False}),
        color=method_colour(methods),
    )
