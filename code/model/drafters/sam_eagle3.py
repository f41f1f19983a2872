"""SAM[X]: the suffix automaton drafts where its match is long, X elsewhere (Hu et al. 2024, 3.3).

As a method of its own X is EAGLE-3; `sam[recycling]` and any other X work too. Matches of at least
`sam_threshold` tokens yield a chain; X sees every step, also those it did not draft.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

from model.contract import (
    Context,
    Draft,
    Drafter,
    Prefill,
    Request,
    Scope,
    StepOut,
    option,
    until_stop,
)
from model.engine.model import Model
from model.index.suffix_automaton import SuffixAutomaton

COMPOSES = "sam"
INNER = "eagle3"


@dataclass(frozen=True)
class Config:
    sam_chain_nodes: int = option(
        40, "tokens copied from a long match", "--chain-nodes", "--samd_n_predicts"
    )
    sam_threshold: int = option(
        5,
        "shortest match the automaton drafts from",
        "--len-threshold",
        "--samd_len_threshold",
    )


class SamWith(Drafter):
    def __init__(self, config: Config, inner: Drafter) -> None:
        self.config, self.inner = config, inner
        max_nodes = max(inner.needs.max_nodes, config.sam_chain_nodes + 1)
        self.needs = dataclasses.replace(inner.needs, max_nodes=max_nodes)
        self.scope: Scope = "question"
        self.forget()

    def enter(self, scope: Scope, key: str) -> None:
        super().enter(scope, key)
        self.inner.enter(scope, key)

    def remember(self, scope: Scope) -> None:
        self.scope = scope
        self.inner.remember(scope)

    def forget(self) -> None:
        self._automaton = SuffixAutomaton()
        self._text = self._automaton.open()

    def session(self) -> SamWith:
        session = copy.copy(self)
        session.inner = self.inner.session()
        return session

    def reserve(self, positions: int) -> None:
        self.inner.reserve(positions)

    def start(self, request: Request, prefill: Prefill) -> None:
        self._text = self._automaton.open()
        self._text.feed((*request.prompt_ids, prefill.first_token))
        self.inner.start(request, prefill)

    def propose(self, context: Context) -> Draft:
        text, threshold = self._text, self.config.sam_threshold
        wanted = min(self.config.sam_chain_nodes, context.max_nodes - 1)
        if text.match_length >= threshold and wanted:
            tokens = text.roomy_continuation(wanted, shortest=threshold)
            tokens = until_stop(tokens, context.request.stop_ids)
            if tokens:
                return Draft.chain(context.root, tokens, "sam")
        room = min(context.max_nodes, self.inner.needs.max_nodes)
        return self.inner.propose(dataclasses.replace(context, max_nodes=room))

    def observe(self, out: StepOut) -> None:
        self._text.feed(out.emitted)
        self.inner.observe(out)

    def during_verify(self) -> None:
        self.inner.during_verify()

    def finish(self, request: Request, output_ids: list[int]) -> None:
        self.inner.finish(request, output_ids)


def build(config: Config, model: Model, inner: Drafter) -> Drafter:
    return SamWith(config, inner)
