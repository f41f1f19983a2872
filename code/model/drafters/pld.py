"""PLD, prompt lookup decoding (Saxena 2023): copy what followed an earlier occurrence.

The longest n-gram (3, 2, 1) of the last tokens with a full continuation wins, and of its
occurrences the oldest. It sees its own prompt and output only. Hugging Face's copies what is left
near the text's end too; here that is off by default (`--pld-partial`), as in the published
benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.contract import (
    Context,
    Draft,
    Drafter,
    Needs,
    Prefill,
    Request,
    StepOut,
    option,
    until_stop,
)
from model.engine.model import Model
from model.errors import UserError
from model.index.suffix_automaton import SuffixAutomaton


@dataclass(frozen=True)
class Config:
    pld_ngram: int = option(3, "longest n-gram looked up")
    pld_tokens: int = option(10, "tokens copied from the earlier occurrence")
    pld_partial: bool = option(False, "also copy from occurrences with fewer tokens after them")

    def __post_init__(self) -> None:
        if self.pld_ngram < 1 or self.pld_tokens < 1:
            raise UserError("--pld-ngram and --pld-tokens must be at least 1")


class Pld(Drafter):
    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs = Needs(max_nodes=config.pld_tokens + 1)
        self.forget()

    def forget(self) -> None:
        self._text = SuffixAutomaton().open()

    def start(self, request: Request, prefill: Prefill) -> None:
        self.forget()
        self._text.feed((*request.prompt_ids, prefill.first_token))

    def propose(self, context: Context) -> Draft:
        config = self.config
        tokens = self._text.lookup(config.pld_ngram, config.pld_tokens, config.pld_partial)
        tokens = until_stop(tokens[: context.max_nodes - 1], context.request.stop_ids)
        return Draft.chain(context.root, tokens, "pld")

    def observe(self, out: StepOut) -> None:
        self._text.feed(out.emitted)


def build(config: Config, model: Model) -> Drafter:
    return Pld(config)
