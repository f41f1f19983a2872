"""Charts of replays: MAT with its bounds, MAT against nodes, gain by sample, along the thought."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evaluation.analysis.replay_summary import ReplaySummary
from evaluation.analysis.replays import PLACES, mat
from evaluation.report import topics
from evaluation.report.charts import (
    Chart,
    Column,
    Row,
    bars,
    bars_height,
    intervals,
    layered,
    lines,
    method_axis,
    method_colour,
    method_shape,
)
from evaluation.report.replay_tables import bound_of, combined_mat
from evaluation.report.run_charts import HIGH, LOW, MAT, METHOD

QUESTIONS = Column("questions", "questions")


def of_replay(summary: ReplaySummary, methods: Sequence[str]) -> list[Chart]:
    """Everything drawn of a replay; `methods` are the page's, in its order."""
    charts = [
        bounded_mat(summary, methods),
        mat_against_nodes(summary, methods),
        by_sample(summary, methods),
        along_the_thought(summary, methods),
    ]
    return [chart for chart in charts if chart.rows]


def bounded_mat(summary: ReplaySummary, methods: Sequence[str]) -> Chart:
    """MAT of every method, its interval, and the bounds as lines."""
    rows: list[Row] = []
    for name in _ordered(summary, methods):
        found = mat(summary.methods[name].tally.of_questions())
        rows.append(
            {
                "method": name,
                "mat": found.mean,
                "low": found.low,
                "high": found.high,
                "questions": found.questions,
            }
        )
    bounds = {
        "best copy, same text": bound_of(summary, "request"),
        "best copy, whole question": bound_of(summary, "question"),
        "best of the methods": combined_mat(summary),
    }
    columns = (METHOD, MAT, LOW, HIGH, QUESTIONS)
    known = [{"bound": name, "mat": value} for name, value in bounds.items() if value == value]
    layers = [bars(MAT, method_colour(methods)), intervals(MAT)]
    if known:
        layers.append(
            {
                "data": {"values": known},
                "mark": {"type": "rule", "strokeDash": [5, 3], "strokeWidth": 2},
                "encoding": {
                    "x": MAT.channel(),
                    "y": None,
                    "tooltip": [
                        {"field": "bound", "type": "nominal"},
                        {"field": "mat", "type": "quantitative", "format": ".2f"},
                    ],
                },
            }
        )
    return Chart(
        name="replay_mat",
        topic=topics.REPLAY,
        heading="Replays: acceptance and its bounds",
        text="Mean accepted tokens on recorded texts, with 95 % over questions; dashed lines are"
        " what copying the best earlier occurrence, and the best of the methods at every step,"
        " would reach.",
        columns=columns,
        rows=tuple(rows),
        spec=layered(
            layers,
            columns,
            bars_height(len({row["method"] for row in rows})),
            y=method_axis(methods),
        ),
    )


def mat_against_nodes(summary: ReplaySummary, methods: Sequence[str]) -> Chart:
    """MAT against the nodes a step verifies: what a drafted node is worth."""
    rows: list[Row] = []
    for name in _ordered(summary, methods):
        steps = mat(summary.methods[name].tally.of_questions()).steps
        nodes = 1 + steps.nodes / max(1, steps.steps)
        rows.append({"method": name, "nodes": nodes, "mat": steps.mat})
    nodes_of = Column("nodes", "nodes verified a step", ".1f")
    columns = (METHOD, nodes_of, MAT)
    points = {
        "mark": {"type": "point", "filled": True, "size": 90},
        "encoding": {"color": method_colour(methods), "shape": method_shape(methods)},
    }
    return Chart(
        name="replay_nodes",
        topic=topics.REPLAY,
        heading="Replays: acceptance against nodes",
        text="What the nodes that a step verifies bring.",
        columns=columns,
        rows=tuple(rows),
        spec=layered([points], columns, x=nodes_of.channel(), y=MAT.channel(scale={"zero": False})),
    )


def by_sample(summary: ReplaySummary, methods: Sequence[str]) -> Chart:
    """MAT of sample 1, 2, ...: what remembering the question's earlier samples brings."""
    number = Column("number", "sample")
    rows = _grouped(summary, methods, "samples", number, int)
    columns = (METHOD, number, MAT)
    return Chart(
        name="replay_samples",
        topic=topics.REPLAY,
        heading="Replays: acceptance by sample",
        text="What remembering the question's earlier samples brings.",
        columns=columns,
        rows=tuple(rows),
        spec=lines(number, MAT, columns, methods),
    )


def along_the_thought(summary: ReplaySummary, methods: Sequence[str]) -> Chart:
    """MAT by output position."""
    middle = {}
    for place, following in zip(PLACES, [*PLACES[1:], 2 * PLACES[-1]], strict=True):
        middle[str(place)] = (place + following) // 2
    position = Column("place", "output position (tokens)")
    rows = _grouped(summary, methods, "places", position, middle.__getitem__)
    columns = (METHOD, position, MAT)
    return Chart(
        name="replay_places",
        topic=topics.REPLAY,
        heading="Replays: along the thought",
        text="Mean accepted tokens by output position.",
        columns=columns,
        rows=tuple(rows),
        spec=lines(position, MAT, columns, methods, "quantitative"),
    )


def _grouped(
    summary: ReplaySummary,
    methods: Sequence[str],
    group: str,
    column: Column,
    place: Callable[[str], int],
) -> list[Row]:
    """MAT of every method by a property of the step."""
    rows: list[Row] = []
    for name in _ordered(summary, methods):
        tallies = summary.methods[name].tally.groups.get(group, {})
        for label in sorted(tallies, key=place):
            rows.append({"method": name, column.field: place(label), "mat": tallies[label].mat})
    return rows


def _ordered(summary: ReplaySummary, methods: Sequence[str]) -> list[str]:
    """In the page's order."""
    return sorted(summary.methods, key=methods.index)
