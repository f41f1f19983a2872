"""blend, ours: a tree of what probably comes next, blended from all contexts of the text so far.

Every string of the question's texts is counted; the next token's probability blends the
continuations of all contexts, long ones first (`index/blended.py`). The tree grows best first, by
the probability of its paths, and stops where the next node's is below what verifying one more node
costs: small trees on a CPU or in a large batch, large ones on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.model import Model
from model.index.blended import chances, feed_and_learn, grow
from model.index.counted_automaton import CountedAutomaton

ROW_COST = 0.0035
"""Vanilla steps that one more verified node costs where nothing was measured: an H100 with an 8B
model."""


START_RATE = (2.0, 1.0)
"""Tokens and vanilla steps, before any were counted."""
FADE = 0.99
"""Of what was counted, kept from step to step: the last hundred count."""


@dataclass(frozen=True)
class Config:
    blend_nodes: int = option(64, "most nodes of a draft, root included")
    blend_context: int = option(16, "longest context in tokens")
    blend_least: float = option(0.002, "no node of a smaller probability")
    blend_price: float = option(1.0, "stop below this share of a node's cost; 0: never")


class Blend(Drafter):
    scope = "question"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs = Needs(max_nodes=config.blend_nodes)
        self._row_costs = np.full(config.blend_nodes, ROW_COST)
        self.forget()

    def forget(self) -> None:
        self.automaton = CountedAutomaton(self.config.blend_context + 1)
        self._learnt = chances()
        self._text = self.automaton.open()
        self._rate = np.array(START_RATE)
        """Tokens emitted and vanilla steps spent lately."""

    def know_costs(self, costs: Mapping[int, float]) -> None:
        self._row_costs = marginal_costs(costs, self.config.blend_nodes)

    def start(self, request: Request, prefill: Prefill) -> None:
        self._text = self.automaton.open()
        self._stops = np.array(sorted(request.stop_ids), dtype=np.int64)
        self._learn((*request.prompt_ids, prefill.first_token))

    def propose(self, context: Context) -> Draft:
        tokens, parents, _ = grow(
            *self.automaton.arrays.all,
            self._text.end,
            self.automaton.depth,
            self._learnt,
            self._stops,
            self._prices(),
            self.config.blend_least,
            context.max_nodes - 1,
        )
        parents_of_draft = (parents + 1).tolist()
        return Draft.tree(context.root, tokens.tolist(), parents_of_draft, "blend")

    def observe(self, out: StepOut) -> None:
        self._learn(out.emitted)
        nodes = len(out.draft.tokens)
        cost = 1.0 + self._row_costs[: nodes - 1].sum()
        self._rate = FADE * self._rate + (len(out.emitted), cost)

    def _learn(self, tokens: Sequence[int]) -> None:
        fed = np.array(tokens, dtype=np.int64)
        arrays = self.automaton.arrays
        arrays.reserve(len(fed))
        feed_and_learn(*arrays.all, self._text.end, fed, self.automaton.depth, self._learnt)

    def _prices(self) -> np.ndarray:
        """The least probability of every further node: its cost times the tokens a cost brings."""
        rate = self._rate[0] / self._rate[1]
        return self.config.blend_price * rate * self._row_costs


def marginal_costs(costs: Mapping[int, float], nodes: int) -> np.ndarray:
    """Vanilla steps that each further node costs, [nodes], of the costs of some numbers of nodes.

    At least a thousandth: nothing is free.
    """
    known = sorted(costs)
    at_nodes = np.interp(np.arange(1, nodes + 2), known, [costs[n] for n in known])
    return np.maximum(np.diff(at_nodes), 0.001)


def build(config: Config, model: Model) -> Drafter:
    return Blend(config)
