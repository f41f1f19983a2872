"""The contract between drafters and the engine: what is proposed, what is reported back, how drafters are found.

A drafter proposes a small tree of tokens below the root, the last emitted token; the engine verifies it with one
forward of the target and reports what was emitted. A file `NAME.py` in `model/drafters/` is the method NAME: it
defines `Config`, a frozen dataclass whose fields are the method's options, and `build(config, host) -> Drafter`.
A composite declares `COMPOSES = "outer"` and `INNER = "default"` and is built with `build(config, host, inner)`:
`outer[NAME]` then names it with any inner drafter.

This module knows neither the engine nor any method.
"""

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from model.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from model.engine.sampling import PositionNoise
    from model.engine.target import Target

Level = Literal["run", "question", "request"]
LEVELS: tuple[Level, ...] = ("run", "question", "request")


@dataclass(frozen=True)
class Needs:
    """What a drafter wants from every forward, declared once; fixes buffer sizes."""

    max_nodes: int = 1
    """Most nodes a draft may hold, root and extra nodes included."""
    feature_layers: tuple[int, ...] = ()
    """Layers whose *entering* residual stream is captured, ascending (EAGLE-3)."""
    topk: int = 0
    """Top-k ids of the target's raw logits at every candidate node (Token Recycling)."""

    def __post_init__(self) -> None:
        if self.max_nodes < 1:
            raise UserError(f"a method's draft must have at least 1 node, its options make {self.max_nodes}")


@dataclass(frozen=True)
class Forcing:
    """Forced end of thinking: once `after` tokens are out and `end_id` is not, emit `ids` (which hold `end_id`)."""

    after: int
    ids: tuple[int, ...]
    end_id: int


@dataclass(frozen=True)
class Request:
    """One generation to make. The text it yields is a function of this and the target alone."""

    prompt_ids: list[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    question_id: str = ""
    choice: int = 0
    sample: int = 0
    round: int = 0
    stop_ids: frozenset[int] = frozenset()
    forcing: Forcing | None = None


@dataclass(frozen=True)
class Prefill:
    """What the prompt's forward yields: the first token and, on request, features [P, A*H].

    Features are those of the A feature layers, concatenated in ascending order, on the target's device.
    """

    first_token: int
    features: "torch.Tensor | None" = None


@dataclass(frozen=True)
class Context:
    """What a drafter may know when it proposes."""

    root: int
    cached: int
    """Tokens in the target's cache; the root is not among them and stands at this position."""
    emitted: int
    """Tokens emitted so far, root included: the next one has output position `emitted`."""
    remaining: int
    max_nodes: int
    request: Request
    noise: "PositionNoise"


@dataclass(frozen=True)
class Draft:
    """A token tree: node 0 is the root, `parents[i] < i`, siblings carry distinct tokens.

    Nodes from `candidates` on are extra nodes: they are computed in the same forward, never emitted or cached, and
    attend the cache and what `extra_mask` [extras, nodes] says; they stand `extra_positions` after the root.
    `probabilities` [nodes-1, V] (chains only) are what node i+1 was drawn from: verification then follows
    speculative rejection sampling at temperatures above 0.
    """

    tokens: Sequence[int]
    parents: Sequence[int]
    candidates: int
    source: str = "draft"
    extra_mask: "np.ndarray | None" = None
    extra_positions: Sequence[int] = ()
    probabilities: "torch.Tensor | None" = None

    @classmethod
    def only_root(cls, root: int) -> "Draft":
        return cls((root,), (-1,), 1, "none")

    @classmethod
    def chain(cls, root: int, tokens: Sequence[int], source: str, **more: Any) -> "Draft":
        n = len(tokens) + 1
        return cls((root, *tokens), range(-1, n - 1), n, source if tokens else "none", **more)

    @property
    def is_chain(self) -> bool:
        return isinstance(self.parents, range) and self.candidates == len(self.tokens)

    def depths(self) -> list[int]:
        """Depth of every node (root 0); of an extra node its position after the root."""
        depths = [0] * self.candidates
        for i in range(1, self.candidates):
            depths[i] = depths[self.parents[i]] + 1
        return depths + list(self.extra_positions)

    def validate(self, max_nodes: int, vocab_size: int) -> None:
        """Raise ValueError where the contract is broken: a wrong tree must never reach the cache."""
        n, m = len(self.tokens), self.candidates
        if not 1 <= m <= n <= max_nodes:
            raise ValueError(f"a draft of {n} nodes with {m} candidates: 1 to {max_nodes} nodes are allowed")
        if min(self.tokens) < 0 or max(self.tokens) >= vocab_size:
            raise ValueError(f"a draft holds a token outside 0..{vocab_size - 1}")
        if isinstance(self.parents, range):
            return
        if any(not 0 <= p < i for i, p in enumerate(self.parents[1:m], 1)):
            raise ValueError("a draft node must come after its parent")
        if len(set(zip(self.parents[1:m], self.tokens[1:m]))) != m - 1:
            raise ValueError("two siblings of a draft carry the same token")


@dataclass(frozen=True)
class StepOut:
    """What one verified step yields. `path` holds the kept nodes, root first, and `len(path) == len(emitted)`.

    `features` [len(path), A*H]; `topk` [candidates, K]; `extra_argmax` lists the target's choice at extra nodes.
    """

    draft: Draft
    path: list[int]
    emitted: list[int]
    finished: bool
    features: "torch.Tensor | None" = None
    topk: "np.ndarray | None" = None
    extra_argmax: list[int] = field(default_factory=list)


class Drafter:
    """Base of all drafters; every method may be left as it is, which is vanilla decoding."""

    needs: Needs = Needs()
    scope: Level = "request"

    def enter(self, level: Level, key: str) -> None:
        """The harness announces a new run, question or request: forget what the scope says."""
        if LEVELS.index(level) <= LEVELS.index(self.scope):
            self.forget()

    def forget(self) -> None:
        """Drop everything learnt."""

    def remember(self, scope: Level) -> None:
        """Set how long what is learnt is kept."""
        self.scope = scope

    def reserve(self, positions: int) -> None:
        """Texts of up to so many tokens will come: allocate now what is allocated once."""

    def start(self, request: Request, prefill: Prefill) -> None:
        """A generation begins: the prompt is cached and `prefill.first_token` emitted."""

    def propose(self, context: Context) -> Draft:
        """Propose a tree below `context.root`, of at most `context.max_nodes` nodes."""
        return Draft.only_root(context.root)

    def observe(self, out: StepOut) -> None:
        """Learn from a verified step (of one's own draft or, inside a composite, of another's)."""

    def settle(self) -> None:
        """Learn what the next proposal did not need: called while the device runs the step's forward."""

    def finish(self, request: Request, output_ids: list[int]) -> None:
        """The generation is over; not preceded by `settle` where the last step ended it."""


def until_stop(tokens: list[int], stop_ids: frozenset[int]) -> list[int]:
    """The tokens up to the first stop id (included) or mark between requests (negative, excluded)."""
    for i, token in enumerate(tokens):
        if token < 0:
            return tokens[:i]
        if token in stop_ids:
            return tokens[:i + 1]
    return tokens


def option(default: Any, help: str, *flags: str) -> Any:
    """A field of a drafter's Config: default, help text, and older names of its flag."""
    return field(default=default, metadata={"help": help, "flags": flags})


def names() -> list[str]:
    """Every method there is: vanilla first, the rest in alphabetical order."""
    package = importlib.import_module("model.drafters")
    found = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    return sorted(found, key=lambda name: name != "vanilla")


def parse(name: str) -> tuple[ModuleType, str | None]:
    """The module that makes method `name`, and the inner drafter's name for a composite."""
    outer, bracket, inner = name.partition("[")
    inner = inner.rstrip("]")
    if bracket:
        for candidate in names():
            module = _module(candidate)
            if getattr(module, "COMPOSES", None) == outer and inner in names():
                return module, inner
    elif outer in names():
        module = _module(outer)
        return module, getattr(module, "INNER", None)
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UserError(f"unknown method '{name}'{hint} Known methods: {', '.join(names())}, and sam[METHOD].")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"model.drafters.{name}")


def config_types(name: str) -> list[type]:
    """The option dataclasses of a method: its own and, for a composite, its inner drafter's."""
    module, inner = parse(name)
    return [module.Config] + (config_types(inner) if inner else [])


def load(name: str, host: "Target", options: dict[str, Any] | None = None) -> Drafter:
    """Build method `name` for the target `host`; `options` are Config fields by name, unknown ones are errors."""
    options = dict(options or {})
    module, inner = parse(name)
    known = {f.name for t in config_types(name) for f in dataclasses.fields(t)}
    if unknown := set(options) - known:
        raise UserError(f"method '{name}' has no option {', '.join(sorted(unknown))}; it has: {', '.join(sorted(known))}")
    config = module.Config(**{f.name: options[f.name] for f in dataclasses.fields(module.Config) if f.name in options})
    if inner is None:
        return module.build(config, host)
    inner_known = {f.name for t in config_types(inner) for f in dataclasses.fields(t)}
    return module.build(config, host, load(inner, host, {k: v for k, v in options.items() if k in inner_known}))
