"""Formats of recorded traces, one file each, found by being here.

A format file defines RANK (who is asked first), `matches(data, fields)`: is this JSON object, a
file's first, of the format? and `read(data, where, options)`: its generations, a list of Trace.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from evaluation.replaying.trace import Fields
from model.contract import NO_CAP
from model.errors import UserError


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may need to know beside the line."""

    fields: Fields = field(default_factory=Fields)
    paradigm: str = "multi_round"
    """What the turns of published traces are: rounds, or samples (best_of_n)."""


def formats() -> list[ModuleType]:
    """Every format there is a file for, in the order in which they are asked."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        found.append(importlib.import_module(f"{__name__}.{module.name}"))
    return sorted(found, key=lambda module: module.RANK)


def format_of(data: dict[str, Any], where: str, fields: Fields) -> ModuleType:
    """The format of a file, told by its first line; UserError where it is none of ours."""
    for candidate in formats():
        if candidate.matches(data, fields):
            return candidate
    wanted = f"'{fields.text}' or '{fields.ids}'"
    raise UserError(
        f"{where}: no format of traces: the fields are {', '.join(list(data)[:12])}; {wanted} is"
        " missing (name yours with --text-field or --ids-field)"
    )


def integers(value: Any, where: str, name: str) -> list[int]:
    """Token ids; UserError for anything else."""
    if isinstance(value, list) and all(type(item) is int and 0 <= item < NO_CAP for item in value):
        return value
    raise UserError(f"{where}: '{name}' must be a list of token ids (whole numbers below {NO_CAP})")


def text(value: Any, where: str, name: str) -> str:
    """A text; UserError for anything else."""
    if isinstance(value, str):
        return value
    raise UserError(f"{where}: '{name}' must be a text, not {type(value).__name__}")


def whole(value: Any, where: str, name: str) -> int:
    """A number of a sample or round; UserError for anything else."""
    if type(value) is int and value >= 0:
        return value
    raise UserError(f"{where}: '{name}' must be a whole number of at least 0")


def temperature(value: Any, where: str) -> float | None:
    """How a text was sampled; None where that is not said, UserError for what is no temperature."""
    if value is None:
        return None
    if type(value) in (int, float) and 0 <= value < math.inf:
        return float(value)
    raise UserError(f"{where}: the temperature must be a number of at least 0, not {value!r}")


def label(value: Any) -> str:
    """A name; empty where it is null."""
    return "" if value is None else str(value)


def messages(value: Any, where: str, name: str) -> list[dict[str, Any]]:
    """Chat messages; UserError for anything else."""
    is_list = isinstance(value, list) and bool(value)
    if is_list and all(isinstance(item, dict) and "role" in item for item in value):
        return value
    raise UserError(f"{where}: '{name}' must be a list of chat messages")


def thought_and_answer(thinking: str | None, answer: str) -> str:
    """Thinking and answer that were stored apart, as the model writes them."""
    return f"<think>\n{thinking}\n</think>\n\n{answer}" if thinking else answer
