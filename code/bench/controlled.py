"""A drafter that is right as often as it is told to be, at the cost of a real method (`gpu.py`).

The method drafts (and is timed) as always; then the tokens of its tree are replaced, so that its
first path agrees with the known text for as many levels as chance says. So the cost of a step can
be measured without trained weights.
"""

from __future__ import annotations

import dataclasses
import random
from time import perf_counter

from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, Scope, StepOut


class Controlled(Drafter):
    """`inner`, with each level of its first path right with probability `chance`.

    A level can be right only while the levels above are. Where `inner` finds nothing to draft
    (random text repeats nothing), a chain of `chain_nodes` stands in.
    """

    def __init__(
        self, inner: Drafter, text: list[int], vocab_size: int, chance: float, chain_nodes: int
    ) -> None:
        self.inner = inner
        self.needs: Needs = inner.needs
        self.sizes: list[int] = []
        """Nodes of every draft."""
        self.seconds: list[float] = []
        """Spent by `inner` a step."""
        self._text = text
        self._vocab_size = vocab_size
        self._chance = chance
        self._chain_nodes = chain_nodes
        self._random = random.Random(0)

    def enter(self, scope: Scope, key: str) -> None:
        self.inner.enter(scope, key)

    def reserve(self, positions: int, sessions: int = 1) -> None:
        self.inner.reserve(positions, sessions)

    def start(self, request: Request, prefill: Prefill) -> None:
        self.inner.start(request, prefill)

    def propose(self, context: Context) -> Draft:
        begun = perf_counter()
        draft = self.inner.propose(context)
        self.seconds.append(perf_counter() - begun)
        if draft.candidates == 1 and not draft.extra_positions:
            nodes = max(1, min(self._chain_nodes, context.max_nodes))
            draft = Draft.chain(context.root, [0] * (nodes - 1), "chain")
        self.sizes.append(len(draft.tokens))
        extra_tokens = draft.tokens[draft.candidates :]
        tokens = [*self._tokens(draft, context), *extra_tokens]
        return dataclasses.replace(draft, tokens=tokens, probabilities=None)

    def during_verify(self) -> None:
        self.inner.during_verify()

    def observe(self, out: StepOut) -> None:
        begun = perf_counter()
        self.inner.observe(out)
        self.seconds[-1] += perf_counter() - begun

    def finish(self, request: Request, output_ids: list[int]) -> None:
        self.inner.finish(request, output_ids)

    def forget_times(self) -> None:
        """What was measured so far was a warm-up."""
        self.sizes.clear()
        self.seconds.clear()

    def _tokens(self, draft: Draft, context: Context) -> list[int]:
        """The candidates' tokens.

        The first child of a right node is the text's token while luck lasts; all others are wrong
        and distinct.
        """
        right_levels = self._right_levels()
        right_nodes, tokens = {0}, [draft.tokens[0]]
        depths = draft.depths()
        children: dict[int, int] = {}
        for node in range(1, draft.candidates):
            parent, depth = draft.parents[node], depths[node]
            rank = children.get(parent, 0)
            children[parent] = rank + 1
            position = context.emitted + depth - 1
            truth = self._text[position] if position < len(self._text) else 0
            if parent in right_nodes and rank == 0 and depth <= right_levels:
                right_nodes.add(node)
                tokens.append(truth)
            else:
                tokens.append((truth + 1 + rank) % self._vocab_size)
        return tokens

    def _right_levels(self) -> int:
        """Levels of this draft's first path that will be right."""
        levels = 0
        while self._random.random() < self._chance:
            levels += 1
        return levels
