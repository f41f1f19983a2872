"""blend, ours: a tree of what probably comes next, blended from all contexts of the text so far.

Every string of the question's texts is counted; the next token's probability blends the
continuations of all contexts, long ones first (`index/blended.py`). The tree grows best first, by
the probability of its paths, and stops where the next node's is below what verifying one more node
costs: small trees on a CPU or in a large batch, large ones on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.model import Model
from model.index.blended import BlendedMemory
from model.price import NodePrices


@dataclass(frozen=True)
class Config:
    blend_nodes: int = option(64, "most nodes of a draft, root included")
    blend_context: int = option(16, "longest context in tokens")
    blend_least: float = option(0.002, "no node of a smaller probability")
    blend_price: float = option(1.0, "stop below this share of a node's price; 0: never")


class Blend(Drafter):
    scope = "question"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs = Needs(max_nodes=config.blend_nodes, gives_chances=True)
        self._prices = NodePrices(config.blend_nodes)
        self.forget()

    def forget(self) -> None:
        self.memory = BlendedMemory(self.config.blend_context)
        self._text = self.memory.open()
        self._prices.forget()

    def know_costs(self, costs: Mapping[int, float]) -> None:
        self._prices.know_costs(costs)

    def squeeze(self) -> None:
        self.memory.squeeze()

    def start(self, request: Request, prefill: Prefill) -> None:
        self._stops = np.array(sorted(request.stop_ids), dtype=np.int64)
        self._text = self.memory.open()
        self._text.feed((*request.prompt_ids, prefill.first_token))

    def propose(self, context: Context) -> Draft:
        prices = self._prices.prices(self.config.blend_price)
        least, most = self.config.blend_least, context.max_nodes - 1
        tokens, parents, chances = self._text.grow(self._stops, prices, least, most)
        return Draft.tree(
            context.root, tokens.tolist(), (parents + 1).tolist(), "blend", chances.tolist()
        )

    def observe(self, out: StepOut) -> None:
        self._text.feed(out.emitted)
        self._prices.count(len(out.emitted), len(out.draft.tokens))


def build(config: Config, model: Model) -> Drafter:
    return Blend(config)
