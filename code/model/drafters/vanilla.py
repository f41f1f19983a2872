"""Vanilla decoding: nothing is drafted, every forward emits one token."""

from dataclasses import dataclass

from model.contract import Drafter
from model.engine.model import Model


@dataclass(frozen=True)
class Config:
    """Vanilla has no options."""


def build(config: Config, model: Model) -> Drafter:
    return Drafter()
