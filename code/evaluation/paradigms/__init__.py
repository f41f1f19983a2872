"""Ways of scaling up at test time, one file each; a file is found by being here.

A paradigm file defines `Config` (a frozen dataclass: its flags), `generations(config)`, the (sample, round) pairs it
makes for a question, and `run(question, generate, config)`. It sees a question's text and a callable, never engine or
drafter: `generate(messages, sample=, round=)` returns an `Answer`.
"""

import difflib
import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from model.errors import UserError

Message = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """A generation as a paradigm sees it: everything written, and what follows the thinking (None: never ended)."""

    text: str
    final: str | None


class Generate(Protocol):
    def __call__(self, messages: list[Message], sample: int = 0, round: int = 0) -> Answer: ...


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def names() -> list[str]:
    """Every paradigm there is."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The paradigm's module; an unknown name gets the nearest one."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.3)
        raise UserError(f"unknown paradigm '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")
                        + f" Known: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
