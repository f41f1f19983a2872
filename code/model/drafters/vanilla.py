"""Vanilla decoding: nothing is drafted, every forward emits one token."""

from dataclasses import dataclass

from model.draft import Drafter
from model.engine.target import Target


@dataclass(frozen=True)
class Config:
    """Vanilla has no options."""


def build(config: Config, host: Target) -> Drafter:
    return Drafter()
