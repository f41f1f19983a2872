"""A drafter that is right as often as it is told to be, at the cost of a real method.

The method drafts (and is timed) as always; then the tokens of its tree are replaced, so that its first path agrees with
the known text for as many levels as chance says. What a step costs can so be measured without trained weights.
"""

import random
from time import perf_counter

from model.draft import Context, Draft, Drafter, Needs, Prefill, Request, StepOut


class Controlled(Drafter):
    """`inner` with each level of its first path right with probability `chance` while the levels above are.

    Where `inner` finds nothing to draft (random text repeats nothing) a chain of `nodes` stands in.
    """

    def __init__(self, inner: Drafter, text: list[int], vocab: int, chance: float, nodes: int) -> None:
        self.inner, self._text, self._vocab, self._chance, self._nodes = inner, text, vocab, chance, nodes
        self.needs: Needs = inner.needs
        self._random = random.Random(0)
        self.sizes: list[int] = []
        self.seconds: list[float] = []
        """Spent by `inner` a step."""

    def enter(self, level: str, key: str) -> None:
        self.inner.enter(level, key)

    def reserve(self, positions: int) -> None:
        self.inner.reserve(positions)

    def start(self, request: Request, prefill: Prefill) -> None:
        self.inner.start(request, prefill)

    def propose(self, context: Context) -> Draft:
        begun = perf_counter()
        found = self.inner.propose(context)
        self.seconds.append(perf_counter() - begun)
        if found.candidates == 1 and not found.extra_positions:
            n = max(1, min(self._nodes, context.max_nodes))
            found = Draft.chain(context.root, [0] * (n - 1), "chain")
        self.sizes.append(len(found.tokens))
        tokens = [*self._tokens(found, context), *found.tokens[found.candidates:]]
        return Draft(tokens, found.parents, found.candidates, found.source, found.extra_mask, found.extra_positions)

    def observe(self, out: StepOut) -> None:
        begun = perf_counter()
        self.inner.observe(out)
        self.seconds[-1] += perf_counter() - begun

    def settle(self) -> None:
        self.inner.settle()

    def finish(self, request: Request, output_ids: list[int]) -> None:
        self.inner.finish(request, output_ids)

    def _tokens(self, found: Draft, context: Context) -> list[int]:
        """The first child of a right node is the text's token while luck lasts; all others are wrong and distinct."""
        right, depth, children, tokens = {0}, [0], {}, [found.tokens[0]]
        lasting = 0
        while self._random.random() < self._chance:
            lasting += 1
        for i in range(1, found.candidates):
            parent = found.parents[i]
            depth.append(depth[parent] + 1)
            rank = children[parent] = children.get(parent, -1) + 1
            place = context.emitted + depth[i] - 1
            truth = self._text[place] if place < len(self._text) else 0
            if parent in right and rank == 0 and depth[i] <= lasting:
                right.add(i)
                tokens.append(truth)
            else:
                tokens.append((truth + 1 + rank) % self._vocab)
        return tokens
