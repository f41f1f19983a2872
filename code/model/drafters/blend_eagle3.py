"""blend[X], ours: one tree under one node budget, from the blend and from X, by probability.

As a method of its own X is EAGLE-3; `blend[sps]` and `blend[recycling]` work too. Every node of
both drafts has a chance of being emitted: the blend's own, and X's as its past drafts of that
confidence fared. The likeliest nodes are kept. X is not run where, after similar drafts of the
blend, it brought less than it costs; every so often it is run all the same, to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from model.composite import Composite
from model.contract import Context, Draft, Drafter, Prefill, Request, StepOut, option
from model.drafting import Drafting
from model.engine.model import Model
from model.index.blended import BlendedMemory
from model.index.calibration import Calibration, Gains
from model.index.merged import NodeChances, merged
from model.price import NodePrices

COMPOSES = "blend"
INNER = "eagle3"


@dataclass(frozen=True)
class Config:
    blend_nodes: int = option(64, "most nodes of a draft, root included")
    blend_context: int = option(16, "longest context in tokens")
    blend_least: float = option(0.002, "no node of a smaller probability")
    blend_price: float = option(1.0, "stop below this share of a node's price; 0: never")
    blend_inner_cost: float = option(
        0.25, "vanilla steps that running the inner drafter costs; 0: always run it"
    )


class BlendWith(Composite):
    def __init__(self, config: Config, inner: Drafter) -> None:
        super().__init__(inner, config.blend_nodes)
        self.needs = replace(self.needs, gives_chances=inner.needs.gives_chances)
        self.config = config
        self._prices = NodePrices(self.needs.max_nodes)
        self._proposed: Draft | None = None
        """The inner drafter's, of the step under way."""
        self._expected = 0.0
        """Tokens that the blend's own draft of the step is expected to bring."""
        self.forget()

    def forget(self) -> None:
        self.memory = BlendedMemory(self.config.blend_context)
        self._text = self.memory.open()
        self._calibration = Calibration()
        self._gains = Gains()
        self._prices.forget()

    def squeeze(self) -> None:
        self.memory.squeeze()

    def know_costs(self, costs: Mapping[int, float]) -> None:
        super().know_costs(costs)
        self._prices.know_costs(costs)

    def start(self, request: Request, prefill: Prefill) -> None:
        self._stops = np.array(sorted(request.stop_ids), dtype=np.int64)
        self._text = self.memory.open()
        self._text.feed((*request.prompt_ids, prefill.first_token))
        super().start(request, prefill)

    def drafting(self, context: Context) -> Drafting[Draft]:
        prices = self._prices.prices(self.config.blend_price)
        least, most = self.config.blend_least, context.max_nodes - 1
        tokens, parents, chances = self._text.grow(self._stops, prices, least, most)
        own = NodeChances(tokens.tolist(), (parents + 1).tolist(), chances.tolist())
        self._proposed = None
        self._expected = sum(own.chances)
        if not self._is_worth_running():
            return Draft.tree(context.root, own.tokens, own.parents, "blend", own.chances)
        draft = yield from self.drafting_of_inner(context)
        if draft.candidates < len(draft.tokens) or draft.probabilities is not None:
            return draft  # extra nodes, or a distribution to verify against: it stands alone
        self._proposed = draft
        inner = NodeChances(
            list(draft.tokens[1:]), list(draft.parents[1:]), self._calibration.chances(draft)
        )
        both = merged(own, inner, prices, most)
        gained = sum(both.chances) - self._expected
        self._gains.expect(self._expected, gained)
        source = f"blend+{draft.source}"
        return Draft.tree(context.root, both.tokens, both.parents, source, both.chances)

    def _is_worth_running(self) -> bool:
        cost = self.config.blend_inner_cost
        return self._gains.pays(self._expected, cost * self._prices.rate)

    def observe(self, out: StepOut) -> None:
        self._text.feed(out.emitted)
        ran = self._proposed is not None
        if self._proposed is not None:
            self._calibration.learn(self._proposed, out.emitted)
        extra = self.config.blend_inner_cost if ran else 0.0
        self._prices.count(len(out.emitted), len(out.draft.tokens), extra)
        super().observe(out)


def build(config: Config, model: Model, inner: Drafter) -> Drafter:
    return BlendWith(config, inner)
