"""SAM[X]: the suffix automaton drafts where its match is long, X elsewhere (Hu et al. 2024, 3.3).

As a method of its own X is EAGLE-3; `sam[recycling]` and any other X work too. Matches of at least
`sam_threshold` tokens yield a chain; X sees every step, also those it did not draft.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.composite import Composite
from model.contract import (
    Context,
    Draft,
    Drafter,
    Prefill,
    Request,
    StepOut,
    option,
    until_stop,
)
from model.drafting import Drafting
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


class SamWith(Composite):
    def __init__(self, config: Config, inner: Drafter) -> None:
        super().__init__(inner, config.sam_chain_nodes + 1)
        self.config = config
        self.forget()

    def forget(self) -> None:
        self._automaton = SuffixAutomaton()
        self._text = self._automaton.open()

    def squeeze(self) -> None:
        self._automaton.squeeze()

    def start(self, request: Request, prefill: Prefill) -> None:
        self._text = self._automaton.open()
        self._text.feed((*request.prompt_ids, prefill.first_token))
        super().start(request, prefill)

    def drafting(self, context: Context) -> Drafting[Draft]:
        text, threshold = self._text, self.config.sam_threshold
        wanted = min(self.config.sam_chain_nodes, context.max_nodes - 1)
        if text.match_length >= threshold and wanted:
            tokens = text.roomy_continuation(wanted, shortest=threshold)
            tokens = until_stop(tokens, context.request.stop_ids)
            if tokens:
                return Draft.chain(context.root, tokens, "sam")
        return (yield from self.drafting_of_inner(context))

    def observe(self, out: StepOut) -> None:
        self._text.feed(out.emitted)
        super().observe(out)


def build(config: Config, model: Model, inner: Drafter) -> Drafter:
    return SamWith(config, inner)
