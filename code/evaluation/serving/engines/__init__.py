"""What each engine tells beyond the protocol, one file an engine, found by being there.

A file defines `ENGINE`, a subclass of `Engine`. The first that knows a server takes it; `openai`
takes any. Definitions of acceptance differ between engines: each file converts its engine's to
ours (target forwards behind the prefill; MAT is tokens emitted over these) and says how. What an
engine does not tell stays empty.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from evaluation.serving.client import Client, Reply

LAST = "openai"
ALL_TOKENS = {"top_k": -1, "min_p": 0.0}
"""Sampling from all tokens, in the words of vLLM and SGLang: where nothing is said the model's
generation_config.json decides."""


@dataclass(frozen=True)
class Steps:
    """A reply's target forwards, as far as the engine tells.

    Either their number alone, or one entry a forward: tokens emitted, tokens drafted, who drafted.
    """

    forwards: int | None = None
    emitted: tuple[int, ...] = ()
    drafted: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class About:
    """What a server says of itself."""

    version: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of its speculation, and whatever else decides its replies."""


class Pages(Protocol):
    """Whose pages can be read."""

    def get(self, path: str) -> Any:
        """None where there is no such page."""
        ...


class Engine:
    """Speaks one engine's dialect."""

    name: ClassVar[str]
    conversion: ClassVar[str]
    """How its acceptance becomes ours, for people."""

    def about(self, client: Client) -> About | None:
        """What the server says of itself; None where it is another engine's."""
        raise NotImplementedError

    def asked(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request with what this engine is asked beyond the protocol."""
        return body

    def steps(self, reply: Reply) -> Steps:
        """Of one reply."""
        return Steps()

    def token_ids(self, reply: Reply) -> list[int]:
        """What was emitted; empty where the engine tells no ids."""
        return reply.token_ids

    def counters(self, client: Pages) -> dict[str, float]:
        """Counts of the whole server, to be compared before and after; empty where it has none."""
        return {}

    def counted(self, difference: dict[str, float]) -> Steps:
        """What the difference of the counters tells."""
        return Steps()


def names() -> list[str]:
    """Every engine there is a file for; the one that takes any server comes last."""
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(files, key=lambda name: (name == LAST, name))


def load(name: str) -> Engine:
    """The engine called `name`."""
    engine: Engine = importlib.import_module(f"{__name__}.{name}").ENGINE()
    return engine


def recognised(client: Client) -> tuple[Engine, About]:
    """Whose server this is, and what it says of itself."""
    for name in names():
        engine = load(name)
        if (about := engine.about(client)) is not None:
            return engine, about
    raise AssertionError(f"{LAST} takes any server")


def forwards_of(new_tokens: int, accepted: int, least: int = 0) -> int:
    """Target forwards behind the prefill of a text whose forwards each emit one token of their own.

    The last forward may have accepted tokens that were cut off: there are `least` at least.
    """
    return max(new_tokens - 1 - accepted, least, 0)
