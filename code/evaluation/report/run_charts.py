"""Charts of a setting's runs: how fast, why, where, how repetitive, and is it right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evaluation.analysis.metrics import NAN
from evaluation.analysis.results import PHASES, MethodResult, SettingResult
from evaluation.report import topics
from evaluation.report.charts import (
    BAR_STEP,
    HEIGHT,
    Chart,
    Column,
    Row,
    Spec,
    bars,
    bars_height,
    intervals,
    layered,
    lines,
    method_axis,
    method_colour,
    method_shape,
    series_colour,
)
from evaluation.report.colours import PHASE_COLOURS, SERIES
from evaluation.report.tables import match_labels, sameness

PLACES = ("same text", "other samples", "earlier rounds", "any of them")
MEMORIES = ("within the same text", "within the whole question")
SAME_SPEED_UP = (0.5, 1, 1.5, 2, 3, 4, 6)
"""Speed-ups of the dashed lines in the picture of MAT against cost."""
ROOM = 1.15
"""Of the largest value, so that points are not on the edge."""
FEWEST_CATEGORIES = 2
LABEL_WIDTH, LABEL_HEIGHT = 0.25, 0.06
"""Of a point's name, in parts of the picture."""

METHOD = Column("method", "method")
SPEED_UP = Column("speed_up", "speed-up over vanilla", ".2f")
LOW = Column("low", "95 % from", ".2f")
HIGH = Column("high", "to", ".2f")
MAT = Column("mat", "mean accepted tokens", ".2f")
COST = Column("cost", "cost of a step (vanilla steps)", ".2f")
STEPS = Column("steps", "steps")


def of_setting(result: SettingResult, methods: Sequence[str]) -> list[Chart]:
    """Everything drawn of a setting; charts without a row are left out.

    `methods` are the page's, in its order.
    """
    makers: tuple[Callable[[SettingResult, Sequence[str]], Chart], ...] = (
        speed,
        mat_against_cost,
        time_breakdown,
        by_position,
        by_generation,
        by_category,
        recurrence,
        match_lengths,
    )
    charts = [make(result, methods) for make in makers]
    return [chart for chart in charts if chart.rows]


def speed(result: SettingResult, methods: Sequence[str]) -> Chart:
    """Speed-up with its interval."""
    rows: list[Row] = []
    for method in _ordered(result, methods):
        up = method.speed.speed_up
        if up is None:
            continue
        rows.append(
            {
                "method": method.name,
                "speed_up": up.ratio,
                "low": up.low,
                "high": up.high,
                "verdict": method.speed.verdict.against_b if method.speed.verdict else "",
                "questions": method.speed.questions,
                "texts": sameness(method.speed.same),
            }
        )
    columns = (
        *(METHOD, SPEED_UP, LOW, HIGH),
        *(Column("verdict", "verdict"), Column("questions", "questions"), Column("texts", "texts")),
    )
    one = {
        "data": {"values": [{}]},
        "mark": {"type": "rule"},
        "encoding": {"x": {"datum": 1}, "y": None},
    }
    return Chart(
        name="speed",
        topic=topics.SPEED,
        heading="Speed-up",
        text="Tokens per second over vanilla's on the same questions; lines are 95 % intervals"
        " over questions, the upright line is vanilla.",
        columns=columns,
        rows=tuple(rows),
        spec=layered(
            [bars(SPEED_UP, method_colour(methods)), intervals(SPEED_UP), one],
            columns,
            bars_height(len({row["method"] for row in rows})),
            y=method_axis(methods),
        ),
    )


def mat_against_cost(result: SettingResult, methods: Sequence[str]) -> Chart:
    """Tokens a step against what a step costs: equal speed-ups lie on the dashed lines."""
    rows: list[Row] = []
    for method in _ordered(result, methods):
        mat, cost, up = method.speed.mat, method.speed.cost, method.speed.speed_up
        if cost is not None and up is not None and mat == mat:
            rows.append({"method": method.name, "cost": cost, "mat": mat, "speed_up": up.ratio})
    _label(rows)
    right = ROOM * max((row["cost"] for row in rows), default=1)
    top = ROOM * max((row["mat"] for row in rows), default=1)
    columns = (METHOD, COST, MAT, SPEED_UP)
    points = {
        "mark": {"type": "point", "filled": True, "size": 90},
        "encoding": {
            "x": COST.channel(scale={"domain": [0, right]}, ticks=5),
            "y": MAT.channel(scale={"domain": [0, top]}),
            "color": method_colour(methods),
            "shape": method_shape(methods),
        },
    }
    names = {
        "mark": {"type": "text", "align": "left", "dx": 7, "dy": -5, "fontSize": 10},
        "encoding": {"x": COST.channel(), "y": MAT.channel(), "text": {"field": "label"}},
    }
    return Chart(
        name="cost",
        topic=topics.WHY,
        heading="Tokens a step against the cost of a step",
        text="Speed-up is MAT / cost: equal speed-ups lie on the dashed lines. Far to the right:"
        " a step that costs more than its tokens are worth.",
        columns=columns,
        rows=tuple(rows),
        spec=layered([*_same_speed_up(right, top), points, names], columns, HEIGHT + 40),
    )


def _label(rows: Sequence[Row]) -> None:
    """Name the points whose name no other would lie on."""
    named: list[Row] = []
    width = max((row["cost"] for row in rows), default=1) * LABEL_WIDTH
    height = max((row["mat"] for row in rows), default=1) * LABEL_HEIGHT
    for row in rows:
        is_free = True
        for other in named:
            is_beside = abs(row["cost"] - other["cost"]) < width
            is_free = is_free and not (is_beside and abs(row["mat"] - other["mat"]) < height)
        row["label"] = row["method"] if is_free else ""
        if is_free:
            named.append(row)


def _same_speed_up(right: float, top: float) -> list[Spec]:
    """Dashed lines from the origin to the edge, with their speed-ups."""
    ends, labels = [], []
    for ratio in SAME_SPEED_UP:
        cost = min(right, top / ratio)
        name = f"{ratio:g}x"
        ends += [
            {"line": name, "cost": 0, "mat": 0},
            {"line": name, "cost": cost, "mat": cost * ratio},
        ]
        labels.append({"line": name, "cost": cost, "mat": cost * ratio})
    x, y = COST.channel(), MAT.channel()
    dashes = {
        "data": {"values": ends},
        "mark": {"type": "line", "strokeDash": [4, 4], "color": "#999999", "strokeWidth": 1},
        "encoding": {"x": x, "y": y, "detail": {"field": "line"}},
    }
    names = {
        "data": {"values": labels},
        "mark": {"type": "text", "align": "right", "baseline": "top", "color": "#999999"},
        "encoding": {"x": x, "y": y, "text": {"field": "line"}},
    }
    return [dashes, names]


def time_breakdown(result: SettingResult, methods: Sequence[str]) -> Chart:
    """Milliseconds a step by phase."""
    rows: list[Row] = []
    for method in _ordered(result, methods):
        if not method.time.wall or not method.time.steps:
            continue
        for order, phase in enumerate(PHASE_COLOURS):
            rows.append(
                {
                    "method": method.name,
                    "phase": phase,
                    "milliseconds": method.time.per_step(phase),
                    "share": method.time.seconds[phase] / method.time.wall,
                    "order": order,
                }
            )
    milliseconds = Column("milliseconds", "milliseconds a step", ".3f")
    columns = (METHOD, Column("phase", "phase"), milliseconds, Column("share", "share", ".0%"))
    phases = series_colour("phase", list(PHASE_COLOURS), list(PHASE_COLOURS.values()))
    stacked = bars(milliseconds, phases, stack="zero")
    stacked["encoding"]["order"] = {"field": "order", "type": "ordinal"}
    assert set(PHASE_COLOURS) == set(PHASES)
    return Chart(
        name="time",
        topic=topics.WHY,
        heading="Where time goes",
        text="Milliseconds a step, the prefill spread over the steps; other is the loop around.",
        columns=columns,
        rows=tuple(rows),
        spec=layered(
            [stacked],
            columns,
            bars_height(len({row["method"] for row in rows})),
            y=method_axis(methods),
        ),
    )


def by_position(result: SettingResult, methods: Sequence[str]) -> Chart:
    """Share of the drafts that long that were accepted up to position d."""
    rows: list[Row] = []
    for method in _ordered(result, methods):
        for depth, rate in enumerate(method.acceptance.positions):
            rows.append({"method": method.name, "position": depth + 1, "rate": rate})
    position = Column("position", "position d in the draft")
    rate_of = Column("rate", "accepted up to d", ".0%")
    columns = (METHOD, position, rate_of)
    spec = lines(position, rate_of, columns, methods, y_scale={"domain": [0, 1]})
    return Chart(
        name="position",
        topic=topics.WHERE,
        heading="Acceptance by draft position",
        text="Of the drafts of at least d nodes: the share accepted up to d.",
        columns=columns,
        rows=tuple(rows),
        spec=spec,
    )


def by_generation(result: SettingResult, methods: Sequence[str]) -> Chart:
    """MAT of round 1, 2, ... or sample 1, 2, ...: what remembering a question is worth."""
    rows: list[Row] = []
    for method in _ordered(result, methods):
        for generation, tally in method.acceptance.generations.items():
            rows.append(
                {
                    "method": method.name,
                    "number": generation + 1,
                    "mat": tally.mat,
                    "steps": tally.steps,
                }
            )
    number = Column("number", result.numbered)
    columns = (METHOD, number, MAT, STEPS)
    return Chart(
        name="generation",
        topic=topics.WHERE,
        heading="Acceptance by round or sample",
        text="What remembering earlier generations of a question is worth.",
        columns=columns,
        rows=tuple(rows),
        spec=lines(number, MAT, columns, methods),
    )


def by_category(result: SettingResult, methods: Sequence[str]) -> Chart:
    """Speed-up on the questions of every category."""
    rows: list[Row] = []
    for method in _ordered(result, methods):
        for category, ratio in method.by_category.items():
            if ratio == ratio:
                rows.append({"method": method.name, "category": category, "speed_up": ratio})
    if len({row["category"] for row in rows}) < FEWEST_CATEGORIES:
        rows = []
    columns = (METHOD, Column("category", "category"), SPEED_UP)
    points = {
        "mark": {"type": "point", "filled": True, "size": 70},
        "encoding": {
            "x": SPEED_UP.channel(scale={"zero": False}),
            "color": method_colour(methods),
            "shape": method_shape(methods),
        },
    }
    down: Spec = {"field": "category", "type": "nominal", "axis": {"title": None, "grid": True}}
    return Chart(
        name="category",
        topic=topics.WHERE,
        heading="Speed-up by category",
        text="On the questions of each category alone.",
        columns=columns,
        rows=tuple(rows),
        spec=layered(
            [points],
            columns,
            bars_height(len({row["category"] for row in rows}), 2 * BAR_STEP),
            y=down,
        ),
    )


def recurrence(result: SettingResult, methods: Sequence[str]) -> Chart:
    """Which share of n-grams was written before."""
    rows: list[Row] = []
    for n, share in result.redundancy.recurrence.items():
        shares = (share.same_text, share.other_samples, share.earlier_rounds, share.anywhere)
        for where, value in zip(PLACES, shares, strict=True):
            if value == value:
                rows.append({"n": n, "where": where, "share": value})
    if not any(row["share"] for row in rows):
        rows = []
    size, where_of = Column("n", "n"), Column("where", "where")
    share_of = Column("share", "n-grams written before", ".0%")
    sizes = [str(n) for n in result.redundancy.recurrence]
    return Chart(
        name="recurrence",
        topic=topics.TEXTS,
        heading="Redundancy",
        text="Share of n-grams written before: in the same text, in other samples, in earlier"
        " rounds.",
        columns=(size, where_of, share_of),
        rows=tuple(rows),
        spec=_grouped((size, where_of, share_of), sizes, PLACES),
    )


def match_lengths(result: SettingResult, methods: Sequence[str]) -> Chart:
    """How long the longest earlier match is before each token."""
    matches = result.redundancy.matches
    labels = match_labels()
    rows: list[Row] = []
    for where, shares in zip(MEMORIES, (matches.same_text, matches.whole_question), strict=True):
        for length, share in zip(labels, shares, strict=True):
            if share == share:
                rows.append({"length": length, "where": where, "share": share})
    length_of = Column("length", "longest earlier match (tokens)")
    where_of, share_of = Column("where", "where"), Column("share", "share of tokens", ".0%")
    return Chart(
        name="matches",
        topic=topics.TEXTS,
        heading="Longest earlier match",
        text="How much of the text so far repeats what came before, token by token.",
        columns=(length_of, where_of, share_of),
        rows=tuple(rows),
        spec=_grouped((length_of, where_of, share_of), labels, MEMORIES),
    )


def _grouped(
    columns: tuple[Column, Column, Column], labels: Sequence[str], names: Sequence[str]
) -> Spec:
    """Bars side by side at every label, one a name."""
    x, series, y = columns
    grouped = {
        "mark": {"type": "bar"},
        "encoding": {
            "xOffset": {"field": series.field, "sort": list(names)},
            "color": series_colour(series.field, names, SERIES),
        },
    }
    across: Spec = {
        "field": x.field,
        "type": "ordinal",
        "sort": list(labels),
        "axis": {"title": x.title, "labelAngle": 0},
    }
    return layered([grouped], columns, x=across, y=y.channel(scale={"domain": [0, 1]}))


def accuracy(by_method: Mapping[str, float], methods: Sequence[str]) -> Chart:
    """Accuracy of every method that was graded."""
    rows: list[Row] = []
    for method in methods:
        if (share := by_method.get(method, NAN)) == share:
            rows.append({"method": method, "accuracy": share})
    of_method = Column("accuracy", "accuracy", ".0%")
    columns = (METHOD, of_method)
    shares = bars(of_method, method_colour(methods), scale={"domain": [0, 1]})
    return Chart(
        name="accuracy",
        topic=topics.RIGHT,
        heading="Accuracy",
        text="Lossless methods keep vanilla's accuracy exactly.",
        columns=columns,
        rows=tuple(rows),
        spec=layered(
            [shares],
            columns,
            bars_height(len({row["method"] for row in rows})),
            y=method_axis(methods),
        ),
    )


def _ordered(result: SettingResult, methods: Sequence[str]) -> list[MethodResult]:
    """In the page's order."""
    return sorted(result.methods, key=lambda method: methods.index(method.name))
