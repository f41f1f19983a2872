"""The contract between drafters and the engine: what is proposed, and what is reported back.

A drafter proposes a small tree of tokens below the root, the last emitted token. The engine
verifies it with one forward of the target and reports what was emitted. How drafters are found
and built is `model/methods.py`.

This module knows neither the engine nor any method.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from model.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from model.drafting import Drafting
    from model.engine.noise import PositionNoise

Self = TypeVar("Self", bound="Drafter")
Scope = Literal["run", "question", "request"]
SCOPES: tuple[Scope, ...] = ("run", "question", "request")
"""From the longest memory to the shortest."""
NO_CAP = 1 << 20
"""Nodes: more than any draft holds."""


@dataclass(frozen=True)
class Needs:
    """What a drafter wants from every forward of the target. Declared once: it fixes buffer sizes.

    Raises UserError where the drafter's options leave no node to draft.
    """

    max_nodes: int = 1
    """Most nodes a draft may hold, root and extra nodes included."""
    feature_layers: tuple[int, ...] = ()
    """Layers whose *entering* residual stream is wanted, ascending (EAGLE-3)."""
    target_topk: int = 0
    """How many of the target's likeliest tokens, with their log-probabilities, are wanted at every
    node (Token Recycling)."""
    learns_from_rejected: bool = False
    """Does it learn from these at rejected nodes too?"""
    carries_distribution: bool = False
    """May a draft hold the distribution it was drawn from (`Draft.probabilities`)?"""
    gives_chances: bool = False
    """Do all its drafts say how likely each node is (`Draft.chances`), without extra nodes? Then
    the rows of a step go to the likeliest nodes of all texts."""

    def __post_init__(self) -> None:
        if self.max_nodes < 1:
            raise UserError(
                f"a method's draft must have at least 1 node, its options allow it {self.max_nodes}"
            )


@dataclass(frozen=True)
class Forcing:
    """Forced end of thinking.

    Once `after` tokens are emitted and `end_id` is not among them, `ids` are emitted in place of
    the target's own tokens; `ids` contain `end_id`.
    """

    after: int
    ids: tuple[int, ...]
    end_id: int


@dataclass(frozen=True)
class Request:
    """One generation to make. Its text is a function of this and of the target alone."""

    prompt_ids: list[int]
    max_new_tokens: int
    temperature: float = 0.0
    sampling_top_k: int = 0
    sampling_top_p: float = 1.0
    seed: int = 0
    question_id: str = ""
    choice: int = 0
    sample: int = 0
    round: int = 0
    stop_ids: frozenset[int] = frozenset()
    forcing: Forcing | None = None

    def is_sampled_as(self, other: Request) -> bool:
        """Are tokens drawn from the same logits alike, but for the noise?"""
        mine = (self.temperature, self.sampling_top_k, self.sampling_top_p)
        return mine == (other.temperature, other.sampling_top_k, other.sampling_top_p)

    @property
    def only_temperature(self) -> bool:
        """Is temperature all that stands between logits and token (no top-k, no top-p)?"""
        return not self.sampling_top_k and self.sampling_top_p >= 1


@dataclass(frozen=True)
class Prefill:
    """What the prompt's forward yields: the first token and, where asked for, features [P, A*H].

    P prompt tokens; the features of the A feature layers are concatenated in ascending order of
    layer and lie on the target's device.
    """

    first_token: int
    features: torch.Tensor | None = None


@dataclass(frozen=True)
class Context:
    """What a drafter may know when it proposes."""

    root: int
    cached: int
    """Tokens in the target's cache. The root is not among them; it stands at this position."""
    emitted: int
    """Tokens emitted so far, root included: the next one has output position `emitted`."""
    remaining: int
    """Tokens that may still be emitted."""
    max_nodes: int
    """Most nodes of this draft, root included."""
    request: Request
    noise: PositionNoise


@dataclass(frozen=True)
class Draft:
    """A token tree. Node 0 is the root, `parents[i] < i`, siblings carry distinct tokens."""

    tokens: Sequence[int]
    parents: Sequence[int]
    """Parent of every candidate; -1 for the root."""
    candidates: int
    """Nodes that may be emitted. Nodes from here on are extra nodes: they are computed in the
    same forward and attend the cache, but are never emitted or cached (Lookahead Decoding)."""
    source: str = "draft"
    """Who drafted, as written into records; 'none' where nothing was drafted."""
    extra_mask: np.ndarray | None = None
    """Which nodes each extra node attends, bool [extra nodes, nodes]."""
    extra_positions: Sequence[int] = ()
    """Position of each extra node, counted from the root's."""
    probabilities: torch.Tensor | None = None
    """Chains only, [nodes - 1, V]: the distribution that node i + 1 was drawn from. At
    temperatures above 0 verification is then speculative rejection sampling."""
    chances: Sequence[float] = ()
    """Of every node below the root, the drafter's own estimate that it will be emitted: the
    product along its path. Empty where it makes none."""

    @classmethod
    def only_root(cls, root: int) -> Draft:
        """Nothing drafted: the step is one of vanilla decoding."""
        return cls((root,), (-1,), 1, "none")

    @classmethod
    def chain(
        cls,
        root: int,
        tokens: Sequence[int],
        source: str,
        probabilities: torch.Tensor | None = None,
        chances: Sequence[float] = (),
    ) -> Draft:
        """The root and `tokens`, each the child of the one before."""
        nodes = len(tokens) + 1
        return cls(
            tokens=(root, *tokens),
            parents=range(-1, nodes - 1),
            candidates=nodes,
            source=source if tokens else "none",
            probabilities=probabilities,
            chances=chances,
        )

    @classmethod
    def tree(
        cls,
        root: int,
        tokens: Sequence[int],
        parents: Sequence[int],
        source: str,
        chances: Sequence[float] = (),
    ) -> Draft:
        """The root and `tokens` below it; `parents` count the root as node 0."""
        return cls(
            tokens=[root, *tokens],
            parents=[-1, *parents],
            candidates=len(tokens) + 1,
            source=source if tokens else "none",
            chances=chances,
        )

    def with_only(self, nodes: Sequence[int]) -> Draft:
        """The root and these nodes, in order; the parent of each is among them or the root."""
        tokens = [self.tokens[node] for node in nodes]
        chances = [self.chances[node - 1] for node in nodes]
        if self.is_chain:
            return Draft.chain(self.tokens[0], tokens, self.source, chances=chances)
        new_number = {0: 0} | {node: number for number, node in enumerate(nodes, 1)}
        parents = [new_number[self.parents[node]] for node in nodes]
        return Draft.tree(self.tokens[0], tokens, parents, self.source, chances)

    @property
    def is_chain(self) -> bool:
        return isinstance(self.parents, range) and self.candidates == len(self.tokens)

    def depths(self) -> list[int]:
        """Depth of every candidate (root 0), then the position of every extra node."""
        depths = [0] * self.candidates
        for node in range(1, self.candidates):
            depths[node] = depths[self.parents[node]] + 1
        return depths + list(self.extra_positions)

    def validate(self, max_nodes: int, vocab_size: int) -> None:
        """Raise ValueError where the contract is broken: a wrong tree must not reach the cache."""
        nodes, candidates = len(self.tokens), self.candidates
        if not 1 <= candidates <= nodes <= max_nodes:
            raise ValueError(
                f"a draft of {nodes} nodes with {candidates} candidates:"
                f" 1 to {max_nodes} nodes are allowed"
            )
        if min(self.tokens) < 0 or max(self.tokens) >= vocab_size:
            raise ValueError(f"a draft holds a token outside 0..{vocab_size - 1}")
        if isinstance(self.parents, range):
            return
        for node, parent in enumerate(self.parents[1:candidates], 1):
            if not 0 <= parent < node:
                raise ValueError("a draft node must come after its parent")
        children = set(zip(self.parents[1:candidates], self.tokens[1:candidates], strict=True))
        if len(children) != candidates - 1:
            raise ValueError("two siblings of a draft carry the same token")


@dataclass(frozen=True)
class StepOut:
    """What one verified step yields."""

    draft: Draft
    path: list[int]
    """The kept nodes, root first; as many as there are emitted tokens."""
    emitted: list[int]
    finished: bool
    features: torch.Tensor | None = None
    """[len(path), A*H]: the target's features at the kept nodes."""
    target_topk: np.ndarray | None = None
    """[candidates, K]: the target's likeliest tokens after every candidate, best first."""
    target_logprobs: np.ndarray | None = None
    """[candidates, K], float32: their log-probabilities at temperature 1."""
    extra_argmax: list[int] = field(default_factory=list)
    """The target's choice after every extra node."""


class Drafter:
    """Base of all drafters. Every hook may be left as it is, which is vanilla decoding.

    A generation calls `start`, then for every step `propose`, `during_verify` and `observe`, then
    `finish`. The harness calls `enter` before a run, a question and a request.
    """

    needs: Needs = Needs()
    scope: Scope = "request"
    """How long what is learnt is kept: until the next run, question or request."""

    def enter(self, scope: Scope, key: str) -> None:
        """A new run, question or request begins: forget what `self.scope` says."""
        if SCOPES.index(scope) <= SCOPES.index(self.scope):
            self.forget()
        else:
            self.squeeze()

    def forget(self) -> None:
        """Drop everything learnt."""

    def squeeze(self) -> None:
        """Between generations: drop the oldest of what is learnt where it takes too much memory."""

    def remember(self, scope: Scope) -> None:
        """Set how long what is learnt is kept."""
        self.scope = scope

    def session(self: Self, slot: int = 0) -> Self:
        """The drafter of one more generation, beside others under way; `slot` is its cache's.

        What is learnt is shared while it grows, unless the scope is a request; what belongs to one
        generation is the session's own. A shallow copy does that where `start` and `forget` assign
        what they begin anew, and all else is changed in place.
        """
        session = copy.copy(self)
        if self.scope == "request":
            session.forget()
        return session

    def reserve(self, positions: int, sessions: int = 1) -> None:
        """Texts of up to `positions` tokens will come, so many at once: allocate now what is
        allocated once.
        """

    def know_costs(self, costs: Mapping[int, float]) -> None:
        """What verifying so many nodes of each text costs here, where it was measured: in vanilla
        steps of as many texts as are decoded together.
        """

    def start(self, request: Request, prefill: Prefill) -> None:
        """A generation begins: the prompt is cached and `prefill.first_token` emitted."""

    def propose(self, context: Context) -> Draft:
        """Propose a tree below `context.root`, of at most `context.max_nodes` nodes.

        The engine raises ValueError for a tree that breaks `Draft.validate`.
        """
        return Draft.only_root(context.root)

    def drafting(self, context: Context) -> Drafting[Draft]:
        """The same for drafters with a model of their own, whose forwards then run together with
        those of other sessions (`drafting.py`).
        """
        yield from ()
        return self.propose(context)

    def during_verify(self) -> None:
        """Learn what the next proposal needs, while the device runs this step's forward.

        On a GPU this costs no time; on a CPU it runs before the forward is waited for.
        """

    def observe(self, out: StepOut) -> None:
        """Learn from a verified step: of one's own draft or, inside a composite, of another's."""

    def finish(self, request: Request, output_ids: list[int]) -> None:
        """The generation is over. After its last step `during_verify` is not called."""


def until_stop(tokens: list[int], stop_ids: frozenset[int]) -> list[int]:
    """The tokens up to the first stop id, which is included."""
    if stop_ids.isdisjoint(tokens):
        return tokens
    for i, token in enumerate(tokens):
        if token in stop_ids:
            return tokens[: i + 1]
    return tokens


def option(default: Any, help: str, *aliases: str) -> Any:
    """A field of an option dataclass: its default, help text, and older names of its flag.

    The field `sam_nodes` becomes the flag `--sam-nodes`.
    """
    return dataclasses.field(default=default, metadata={"help": help, "aliases": aliases})
