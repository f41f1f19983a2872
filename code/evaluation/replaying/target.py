"""What stands in for the target: its vocabulary and tokenizer, but no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.replaying.trace import Trace
from model import methods
from model.contract import NO_CAP, Drafter
from model.errors import UserError

NO_TOPK = (
    "it drafts from the target's likeliest tokens, which these traces do not hold (run with"
    " --record-topk 10)"
)


@dataclass(frozen=True)
class TextTarget:
    """All that drafters without a model ask of the target."""

    path: str = ""
    """Of its tokenizer; empty where none was given."""
    vocab_size: int = NO_CAP


def build(name: str, target: TextTarget, options: Mapping[str, Any]) -> Drafter:
    """Method `name` for a replay; UserError where it needs a model."""
    if reason := methods.why_no_replay(name):
        raise UserError(f"'{name}' cannot be replayed: {reason}")
    return methods.load(name, target, options)  # type: ignore[arg-type]


def check_topk(name: str, drafter: Drafter, traces: list[Trace]) -> None:
    """Raise UserError where the drafter learns from what the traces do not hold."""
    if drafter.needs.target_topk and any(trace.target_topk is None for trace in traces):
        raise UserError(f"'{name}' cannot be replayed: {NO_TOPK}")
