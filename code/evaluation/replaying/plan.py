"""What is to be replayed, as one frozen value: it travels to worker processes as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluation.replaying.corpus import Corpus
from evaluation.replaying.target import TextTarget
from model.contract import NO_CAP, Scope


@dataclass(frozen=True)
class Variant:
    """A method with its options."""

    label: str
    """The method's name, or in a sweep what is set too."""
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scope: Scope | None = None
    """None: the method's own."""
    max_nodes: int = NO_CAP


@dataclass(frozen=True)
class Plan:
    """Every generation of a corpus with every variant."""

    corpus: Corpus
    variants: tuple[Variant, ...]
    target: TextTarget
    stop_ids: frozenset[int] = frozenset()
    questions: Mapping[str, str] | None = None
    """Texts of questions, for traces without prompts."""
    uses_chat: bool = False
    interleave: int = 1
    """Samples of a question that take turns, step by step."""
    paradigm: str = "best_of_n"
    model_id: str = "replay"
    temperature: float = 0.0
    """Where a trace does not tell."""
    end_think_id: int | None = None
    budgets: int | None = None
    """Token budget of the run that the traces are of; None: each text's own length."""
    skips_bad: bool = False
    wants_records: bool = True
    wants_bounds: bool = True
