"""SAM[X]: the suffix automaton drafts where its match is long, X drafts a tree elsewhere (Hu et al. 2024, section 3.3).

As a method of its own X is EAGLE-3; `sam[recycling]` and any other X work too. Matches of at least `len_threshold`
tokens yield a chain; X sees every step, also those it did not draft.
"""

import dataclasses
from dataclasses import dataclass

from model.draft import Context, Draft, Drafter, Level, Prefill, Request, StepOut, option, until_stop
from model.engine.target import Target
from model.index.suffix_automaton import SuffixAutomaton

COMPOSES = "sam"
INNER = "eagle3"


@dataclass(frozen=True)
class Config:
    chain_nodes: int = option(40, "tokens copied from a long match", "--samd_n_predicts")
    len_threshold: int = option(5, "shortest match the automaton drafts from", "--samd_len_threshold")


class SamWith(Drafter):
    def __init__(self, config: Config, inner: Drafter) -> None:
        self.config, self.inner = config, inner
        self.needs = dataclasses.replace(inner.needs, max_nodes=max(inner.needs.max_nodes, config.chain_nodes + 1))
        self.scope: Level = "question"
        self.forget()

    def enter(self, level: Level, key: str) -> None:
        super().enter(level, key)
        self.inner.enter(level, key)

    def remember(self, scope: Level) -> None:
        self.scope = scope
        self.inner.remember(scope)

    def forget(self) -> None:
        self._automaton = SuffixAutomaton()
        self._requests = 0

    def reserve(self, positions: int) -> None:
        self.inner.reserve(positions)

    def start(self, request: Request, prefill: Prefill) -> None:
        self._requests += 1
        self._automaton.feed(-1 - self._requests)
        for token in (*request.prompt_ids, prefill.first_token):
            self._automaton.feed(token)
        self.inner.start(request, prefill)

    def propose(self, context: Context) -> Draft:
        sam, wanted = self._automaton, min(self.config.chain_nodes, context.max_nodes - 1)
        if sam.match_length >= self.config.len_threshold and wanted:
            _, end = sam.longer_continuation(wanted, self.config.len_threshold)
            tokens = until_stop(sam.text[end + 1:end + 1 + wanted], context.request.stop_ids)
            if tokens:
                return Draft.chain(context.root, tokens, "sam")
        room = min(context.max_nodes, self.inner.needs.max_nodes)
        return self.inner.propose(dataclasses.replace(context, max_nodes=room))

    def observe(self, out: StepOut) -> None:
        for token in out.emitted:
            self._automaton.feed(token)
        self.inner.observe(out)

    def settle(self) -> None:
        self.inner.settle()

    def finish(self, request: Request, output_ids: list[int]) -> None:
        self.inner.finish(request, output_ids)


def build(config: Config, host: Target, inner: Drafter) -> Drafter:
    return SamWith(config, inner)
