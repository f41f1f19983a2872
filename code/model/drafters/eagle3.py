"""EAGLE-3 (Li et al. 2025): a one-layer head over three of the target's layers drafts a tree.

Scores are cumulative draft log-probabilities; the best `eagle_nodes` - 1 nodes are kept. Children
are the head's top-k, not samples, so verification by the target's own token is exact at every
temperature.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field

import torch

from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.drafting import Drafting, alone
from model.eagle3.checkpoint import load_head, weights_bytes
from model.eagle3.graph import DraftGraph
from model.eagle3.head import Eagle3Head
from model.eagle3.tree import DraftState, Tree, TreeShape
from model.engine.model import Model
from model.errors import UserError
from model.memory import CacheSize
from model.paths import MINI

GROWTH = 4096
"""Positions by which a recorded draft's state grows: a larger state means new graphs."""
FLUSH = 256
"""Rows queued while another drafter is at work before they are fed to the head."""


NEEDS_MODEL = "its head drafts from the target's features"


@dataclass(frozen=True)
class Config:
    eagle_head: str = option(
        "mini",
        "EAGLE-3 head: a folder, a hub id, or 'mini'",
        "--ea-model-path",
        "--tree_model_path",
    )
    eagle_nodes: int = option(60, "nodes of a draft, root included", "--total-token")
    eagle_depth: int = option(5, "levels below the first", "--depth")
    eagle_top_k: int = option(10, "nodes expanded a level, and children of each", "--top-k")

    def __post_init__(self) -> None:
        if self.eagle_nodes < 2 or self.eagle_depth < 0 or self.eagle_top_k < 1:
            raise UserError(
                "EAGLE-3 needs --eagle-nodes of at least 2, --eagle-depth of at least 0 and"
                " --eagle-top-k of at least 1"
            )


FUSED, PLAIN = "fused", "plain"
"""How a draft may be recorded."""


def ways_to_record(engine: str) -> tuple[str, ...]:
    """A draft, where the target runs by this engine."""
    return {"cuda_graph_fused": (FUSED, PLAIN), "cuda_graph": (PLAIN,)}.get(engine, ())


@dataclass
class Shared:
    """What all sessions of a drafter have in common."""

    states: dict[int, DraftState] = field(default_factory=dict)
    """By slot: of sessions beside the first, kept for those to come."""
    has_warned: bool = False


class Eagle3(Drafter):
    def __init__(
        self,
        config: Config,
        head: Eagle3Head,
        embedding: torch.Tensor,
        recorded: tuple[str, ...] = (),
    ) -> None:
        """`recorded`: how the whole draft may run as one CUDA graph (on a CPU operation by
        operation): FUSED, PLAIN, tried in this order; by level where it holds nothing."""
        k = min(config.eagle_top_k, config.eagle_nodes - 1, head.config.draft_vocab)
        self.head, self.embedding, self.config = head, embedding, config
        self.shape = TreeShape(k=k, depth=config.eagle_depth, nodes=config.eagle_nodes - 1)
        self.needs = Needs(
            max_nodes=config.eagle_nodes,
            feature_layers=head.config.feature_layers,
            gives_chances=True,
        )
        self.state: DraftState | None = None
        self._slot = 0
        self._shared = Shared()
        self._recorded = recorded
        self._graph: DraftGraph | None = None
        self._features: list[torch.Tensor] = []
        self._tokens: list[int] = []

    def start(self, request: Request, prefill: Prefill) -> None:
        assert prefill.features is not None
        length = len(request.prompt_ids) + request.max_new_tokens
        self._warn_beyond_training(length)
        self._reserved(length).reset()
        self._features = [prefill.features]
        self._tokens = [*request.prompt_ids[1:], prefill.first_token]

    def session(self, slot: int = 0) -> Eagle3:
        """Sessions draft level by level, so that one forward serves all of them."""
        session = super().session(slot)
        session._slot, session._recorded, session._graph = slot, (), None
        if slot:
            session.state = self._shared.states.get(slot)
        return session

    def reserve(self, positions: int, sessions: int = 1) -> None:
        self._reserved(positions)
        for slot in range(1, sessions):
            self.session(slot)._reserved(positions)

    def propose(self, context: Context) -> Draft:
        return alone(self.drafting(context))

    def drafting(self, context: Context) -> Drafting[Draft]:
        nodes = min(self.config.eagle_nodes, context.max_nodes) - 1
        depth = min(self.config.eagle_depth, context.remaining - 1)
        if nodes < 1 or depth < 0:
            return Draft.only_root(context.root)
        k = min(self.config.eagle_top_k, nodes, self.head.config.draft_vocab)
        tree = yield from self._growing(TreeShape(k, depth, nodes))
        return Draft.tree(context.root, tree.tokens, tree.parents, "eagle3", tree.chances)

    def observe(self, out: StepOut) -> None:
        if out.finished:
            return
        assert out.features is not None
        self._features.append(out.features)
        self._tokens.extend(out.emitted)
        if len(self._tokens) >= FLUSH:
            self._catch_up()

    def finish(self, request: Request, output_ids: list[int]) -> None:
        self._features, self._tokens = [], []

    def _warn_beyond_training(self, length: int) -> None:
        trained = self.head.config.trained_length
        if length > trained and not self._shared.has_warned:
            print(
                f"warning: this EAGLE-3 head was trained on {trained} tokens, the run has up to"
                f" {length}: expect its acceptance to fall beyond",
                file=sys.stderr,
            )
            self._shared.has_warned = True

    def _reserved(self, positions: int) -> DraftState:
        """A state for texts of so many tokens; one that is large enough stays, with its graphs."""
        positions += 1 + (self.shape.depth + 1) * self.config.eagle_top_k
        if self.state and self.state.positions >= positions:
            return self.state
        if self._recorded:
            positions = (positions + GROWTH - 1) // GROWTH * GROWTH
        self.state, self._graph = None, None  # free before allocating anew
        self.state = DraftState(self.head, self.embedding, positions)
        if self._slot:
            self._shared.states[self._slot] = self.state
        if self._recorded:
            self._graph = self._recorded_draft(self.state)
        return self.state

    def _recorded_draft(self, state: DraftState) -> DraftGraph | None:
        """The whole draft as graphs; None, and a warning, where it has to be drafted by level.

        A way that fails is not tried again.
        """
        while self._recorded:
            if graph := self._recorded_as(state, self._recorded[0]):
                return graph
            self._recorded = self._recorded[1:]
        return None

    def _recorded_as(self, state: DraftState, way: str) -> DraftGraph | None:
        why = "is another than level by level"
        graph = None
        try:
            made = DraftGraph(state, self.shape, fused=way == FUSED)
            graph = made if made.prepare() else None
        except (torch.OutOfMemoryError, UserError):
            raise
        except Exception as error:  # Triton and CUDA raise types of their own
            why = f"cannot be recorded here ({type(error).__name__}: {error})"
        state.reset()
        if graph is None:
            simpler = "operation by operation" if way == FUSED else "level by level"
            warnings.warn(
                f"EAGLE-3's draft, recorded {way}, {why}; going on {simpler}", stacklevel=2
            )
        return graph

    def _growing(self, shape: TreeShape) -> Drafting[Tree]:
        """By the recorded draft, but near a text's end, where trees are smaller."""
        assert self.state is not None
        pending = len(self._tokens)
        if not pending:
            return (yield from self.state.drafting(shape))
        features, tokens = torch.cat(self._features), self._tokens
        self._features, self._tokens = [], []
        if self._graph and shape == self.shape and self._graph.takes(pending):
            return self._graph.step(features, tokens)
        return (yield from self.state.drafting(shape, features, tokens))

    def _catch_up(self) -> None:
        assert self.state is not None
        self.state.catch_up(torch.cat(self._features), self._tokens)
        self._features, self._tokens = [], []


def _path(config: Config) -> str:
    return str(MINI / "eagle3") if config.eagle_head == "mini" else config.eagle_head


def held_bytes(config: Config, size: CacheSize) -> int:
    """Of the head: its one layer's cache is a hundredth of that."""
    return weights_bytes(_path(config))


def build(config: Config, model: Model) -> Drafter:
    head = load_head(_path(config), model.config, model.vocab_size).to(model.device, model.dtype)
    if head.config.own_embeddings:
        embedding = head.embed_tokens.weight
    else:
        embedding = model.network.get_input_embeddings().weight
    return Eagle3(config, head, embedding, ways_to_record(model.engine))
