"""The top of the page: what was run in a line, and each setting's answer with its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.analysis.answer import AnswerRow, Badge, SettingAnswer
from evaluation.analysis.comparison import Comparison
from evaluation.report.colours import colour
from evaluation.report.formatting import UNKNOWN, number, percent

PACKAGES = ("torch", "transformers")


@dataclass(frozen=True)
class Bar:
    """A speed-up as a bar, with its interval and the place of 1; all in percent of the cell."""

    width: float
    low: float
    span: float
    one: float
    colour: str


@dataclass(frozen=True)
class ShownRow:
    """A method's row as text."""

    method: str
    speed_up: str
    bar: Bar | None
    verdict: str
    texts: str
    accuracy: str
    cost: str
    memory: str
    badges: tuple[Badge, ...]


@dataclass(frozen=True)
class ShownAnswer:
    """One setting's."""

    title: str
    sentence: str
    rows: tuple[ShownRow, ...]


def shown(made: SettingAnswer) -> ShownAnswer:
    """A setting's answer as text."""
    highest = max((row.high or row.ratio or 0.0 for row in made.rows), default=0.0)
    rows = tuple(_row(row, highest) for row in made.rows)
    return ShownAnswer(made.title, made.sentence, rows)


def _row(row: AnswerRow, highest: float) -> ShownRow:
    interval, bar = number(row.ratio), None
    if row.ratio is not None and row.low is not None and row.high is not None:
        interval = f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]"
        scale = 100 / max(highest, 1.0)
        bar = Bar(
            width=round(row.ratio * scale, 1),
            low=round(row.low * scale, 1),
            span=round((row.high - row.low) * scale, 1),
            one=round(scale, 1),
            colour=colour(row.method),
        )
    return ShownRow(
        method=row.method,
        speed_up=interval,
        bar=bar,
        verdict=row.verdict or UNKNOWN,
        texts=row.texts or UNKNOWN,
        accuracy=UNKNOWN if row.accuracy is None else percent(row.accuracy),
        cost=number(row.cost, 1),
        memory=f"{row.memory / 1e9:.1f} GB" if row.memory else UNKNOWN,
        badges=row.badges,
    )


def subtitle(comparisons: Sequence[Comparison]) -> str:
    """Machine, questions, dates and versions, in one line."""
    devices: dict[str, None] = {}
    days: dict[str, None] = {}
    versions: dict[str, None] = {}
    questions: set[str] = set()
    for comparison in comparisons:
        for method in comparison.methods:
            data = method.manifest.data
            devices |= dict.fromkeys([str(data.get("device") or "")])
            days |= dict.fromkeys([str(data.get("started") or "")[:10]])
            known = data.get("versions") or {}
            for package in PACKAGES:
                if package in known:
                    versions[f"{package} {known[package]}"] = None
            questions |= set(method.totals)
    parts = [
        ", ".join(sorted(filter(None, devices))),
        f"{len(questions)} question{'s' * (len(questions) != 1)}",
        " to ".join(sorted(filter(None, days))[:: max(1, len(days) - 1)]),
        ", ".join(versions),
    ]
    return " · ".join(filter(None, parts))
