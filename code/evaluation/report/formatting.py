"""Tables for people, Markdown and LaTeX, with one way of rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from evaluation.analysis.metrics import SpeedUp
from model.errors import printable

FORMATS = {"plain": "simple", "markdown": "github", "latex": "latex"}
UNKNOWN = "-"


@dataclass(frozen=True)
class Table:
    """A table as it will be read: every cell is text, rounded."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    topic: str = ""
    """The section of the report's page."""

    def text(self, form: str = "plain") -> str:
        """In one of FORMATS: the first column left, numbers right."""
        rows = [[printable(cell) for cell in row] for row in self.rows]
        alignment = ["left"] + ["right"] * (len(self.header) - 1)
        return tabulate(
            rows,
            headers=self.header,
            tablefmt=FORMATS[form],
            disable_numparse=True,
            colalign=alignment if self.rows else None,
        )


def number(value: float | None, digits: int = 2) -> str:
    """Fixed digits; a dash for what is not known."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:.{digits}f}"


def percent(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{100 * value:.0f} %"


def with_interval(up: SpeedUp | None) -> str:
    """`1.52 [1.31, 1.70]`, without brackets where there is no interval."""
    if up is None:
        return UNKNOWN
    if not up.has_interval:
        return number(up.ratio)
    return f"{number(up.ratio)} [{number(up.low)}, {number(up.high)}]"
