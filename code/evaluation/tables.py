"""Tables for people, Markdown and LaTeX, with one way of rounding."""

import math
from collections.abc import Sequence

from tabulate import tabulate

FORMATS = {"plain": "simple", "markdown": "github", "latex": "latex"}


def number(value: float | None, digits: int = 2) -> str:
    """Fixed digits; a dash for what is not known."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f} %"


def render(header: Sequence[str], rows: Sequence[Sequence[str]], form: str = "plain") -> str:
    """Text columns left, numbers as they come (already rounded)."""
    return tabulate(rows, headers=header, tablefmt=FORMATS[form], disable_numparse=True,
                    colalign=["left"] + ["right"] * (len(header) - 1) if rows else None)
