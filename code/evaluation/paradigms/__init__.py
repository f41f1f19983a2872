"""Ways of scaling up at test time, one file each; a file is found by being here.

A paradigm file defines `Config` (a frozen dataclass: its flags), `generations(config)`, the
(sample, round) pairs it makes for a question, and `run(question, generate, config)`. It sees a
question's text and a callable, never engine or drafter: `generate(messages, sample=, round=)`
returns an `Answer`, `generate.many(asks)` those of independent generations, and
`generate.until(is_enough, asks)` those of as many as it takes. A file whose generations differ by
their noise alone says `NEEDS_TEMPERATURE = True`: at temperature 0 there is nothing to measure.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from model.errors import UserError

Message = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """A generation as a paradigm sees it."""

    text: str
    """Everything written."""
    final: str | None
    """What follows the thinking; None where it never ended."""


@dataclass(frozen=True)
class GenerationKey:
    """Which generation of a question."""

    choice: int = 0
    sample: int = 0
    round: int = 0


@dataclass(frozen=True)
class Ask:
    """One generation that a paradigm asks for."""

    messages: list[Message]
    sample: int = 0
    round: int = 0


Enough = Callable[[Sequence[Answer]], bool]
"""Do the first answers of a question, in the order they were asked for, make the others unneeded?
Once it says so of some, it says so of more."""


class Generate(Protocol):
    """What a paradigm is given to call."""

    def __call__(self, messages: list[Message], sample: int = 0, round: int = 0) -> Answer:
        """One generation."""
        ...

    def many(self, asks: list[Ask]) -> list[Answer]:
        """Generations that do not depend on each other: they may be decoded together."""
        ...

    def until(self, is_enough: Enough, asks: list[Ask]) -> list[Answer]:
        """The same up to the first that is enough; of the others nothing is made, or a part."""
        ...


def user(content: str) -> Message:
    """What the user says."""
    return {"role": "user", "content": content}


def names() -> list[str]:
    """Every paradigm there is a file for."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def needs_temperature(name: str) -> bool:
    """Do its generations differ by their noise alone?"""
    return getattr(load(name), "NEEDS_TEMPERATURE", False)


def load(name: str) -> ModuleType:
    """The paradigm's module; raises UserError for an unknown name, with the nearest one."""
    if name in names():
        return importlib.import_module(f"{__name__}.{name}")
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.3)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    raise UserError(f"unknown paradigm '{name}'{hint} Known: {', '.join(names())}")
