"""Reasoning problems of the mini family, drawn from seeded random numbers: a file a category.

A file `CATEGORY.py` here defines `KINDS`, a tuple of functions `kind(rng) -> Problem`; it is found
by being here. This package knows numbers and wording; it does not know tokens, models or how a
trace of thought is composed (`training/trace.py`).
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

HELPER = "arithmetic"
"""The file here that is no category."""


@dataclass(frozen=True)
class Step:
    """One piece of worked arithmetic: what it is about, the calculation, the value it ends in."""

    about: str
    calc: str
    value: str


@dataclass(frozen=True)
class Problem:
    """A question with its answer and everything a trace of thought about it can say."""

    kind: str
    question: str
    answer: str
    goal: str
    facts: tuple[str, ...]
    plan: str
    steps: tuple[Step, ...]
    check: tuple[Step, ...]


Kind = Callable[[Random], Problem]


def kinds_by_category() -> dict[str, tuple[Kind, ...]]:
    """Every category file of this package with the kinds it defines, in alphabetical order."""
    files = sorted(module.name for module in pkgutil.iter_modules(__path__))
    kinds = {}
    for name in files:
        if name != HELPER:
            kinds[name] = importlib.import_module(f"{__name__}.{name}").KINDS
    return kinds


def split_of(problem: Problem) -> str:
    """'test', 'validation' or 'train', decided by the question itself.

    A question belongs to one split whatever seed drew it, so the splits are disjoint by
    construction: one in sixteen questions is for testing, one for validation.
    """
    digest = hashlib.sha256(" ".join(problem.question.split()).encode()).digest()
    return {0: "test", 1: "validation"}.get(digest[0] % 16, "train")


def draw(rng: Random, split: str, category: str | None = None) -> tuple[str, Problem]:
    """Draw (category, problem) belonging to `split`, all kinds of a category equally likely."""
    categories = kinds_by_category()
    while True:
        name = category or rng.choice(sorted(categories))
        problem = rng.choice(categories[name])(rng)
        if split_of(problem) == split:
            return name, problem
