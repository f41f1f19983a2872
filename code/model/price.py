"""What one more drafted node has to be worth: its cost times the tokens that a cost brings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ROW_COST = 0.0035
"""Vanilla steps that one more verified node costs where nothing was measured: an H100 with an 8B
model."""
LEAST = 0.001
"""No node is freer than this."""
START_RATE = (2.0, 1.0)
"""Tokens and vanilla steps, before any were counted."""
FADE = 0.99
"""Of what was counted, kept from step to step: the last hundred count."""


class NodePrices:
    """Marginal costs of the nodes of a draft, and the tokens per cost of late.

    A node pays where its chance of being emitted is at least its price.
    """

    def __init__(self, nodes: int) -> None:
        self._row_costs = np.full(nodes, ROW_COST)
        self.forget()

    def forget(self) -> None:
        """Begin counting anew; what nodes cost stays."""
        self._rate = np.array(START_RATE)

    def know_costs(self, costs: Mapping[int, float]) -> None:
        """Of what verifying some numbers of nodes costs, in vanilla steps."""
        known = sorted(costs)
        nodes = np.arange(1, len(self._row_costs) + 2)
        at_nodes = np.interp(nodes, known, [costs[n] for n in known])
        self._row_costs = np.maximum(np.diff(at_nodes), LEAST)

    def count(self, emitted: int, nodes: int, extra: float = 0.0) -> None:
        """A step emitted so many tokens with so many nodes, the root included, and cost `extra`
        vanilla steps besides."""
        cost = 1.0 + extra + self._row_costs[: nodes - 1].sum()
        self._rate = FADE * self._rate + (emitted, cost)

    @property
    def rate(self) -> float:
        """Tokens emitted per vanilla step."""
        return float(self._rate[0] / self._rate[1])

    def prices(self, share: float = 1.0) -> np.ndarray:
        """Of the first, second, ... node below the root, [nodes]; `share` of the price itself."""
        return share * self.rate * self._row_costs
