"""Figures and table of speed against how many samples are decoded together."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.analysis.together import BASE, Point, is_scored
from evaluation.report import topics
from evaluation.report.charts import (
    Chart,
    Column,
    Row,
    Spec,
    layered,
    method_colour,
    method_shape,
)
from evaluation.report.formatting import UNKNOWN, Table, number, with_interval
from evaluation.report.run_charts import METHOD

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
HEADINGS = {
    "speed-up": "Speed-up against samples decoded together",
    "tokens": "Tokens a second against samples decoded together",
    "cost": "Cost of a right answer against samples decoded together",
}
TEXTS = {
    "speed-up": "Over vanilla with as many together. Hollow: not faster, drafting does not pay.",
    "tokens": "Of all samples under way.",
    "cost": "Seconds of all samples over right answers.",
}
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


def height_of(point: Point, what: str) -> float:
    """One of HEIGHTS."""
    assert point.speed.speed_up is not None
    heights = {
        "speed-up": point.speed.speed_up.ratio,
        "tokens": point.speed.tokens_per_second,
        "cost": point.cost,
    }
    return heights[what]


def chart(points: Sequence[Point], what: str, methods: Sequence[str]) -> Chart:
    """Of one setting's points one of HEIGHTS; `methods` are the page's, in its order."""
    rows: list[Row] = []
    for point in sorted(points, key=lambda point: methods.index(point.speed.method)):
        name = point.speed.method
        pays = "does not pay" if point.is_faster is False and name != BASE else "pays"
        height = height_of(point, what)
        rows.append({"method": name, "together": point.together, "value": height, "pays": pays})
    count = Column("together", "samples decoded together")
    value = Column("value", HEIGHTS[what], ".2f")
    columns = (METHOD, count, value, Column("pays", "drafting"))
    return Chart(
        name=f"parallel-{what}",
        topic=topics.TOGETHER,
        heading=HEADINGS[what],
        text=TEXTS[what],
        columns=columns,
        rows=tuple(rows),
        spec=_lines(count, value, columns, methods),
    )


def _lines(count: Column, value: Column, columns: Sequence[Column], methods: Sequence[str]) -> Spec:
    """A line a method; points are hollow where drafting does not pay."""
    filled = {"condition": {"test": "datum.pays === 'pays'", "value": 1}, "value": 0}
    points = {
        "mark": {"type": "point", "size": 60},
        "encoding": {
            "shape": method_shape(methods),
            "fill": method_colour(methods),
            "fillOpacity": filled,
        },
    }
    across: Spec = {"field": "together", "type": "ordinal"}
    across["axis"] = {"title": count.title, "labelAngle": 0}
    return layered(
        [{"mark": {"type": "line", "strokeWidth": 1.5}}, points],
        columns,
        x=across,
        y=value.channel(),
        color=method_colour(methods),
    )


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
    return Table(title, HEADER, rows, topics.TOGETHER)
