"""PLD, prompt lookup decoding (Saxena 2023): copy what followed an earlier occurrence.

The longest n-gram (3, 2, 1) of the last tokens with a full continuation wins, and of its
occurrences the oldest. It sees its own prompt and output only.
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
from model.index.ngram import NgramIndex


@dataclass(frozen=True)
class Config:
    pld_ngram: int = option(3, "longest n-gram looked up")
    pld_tokens: int = option(10, "tokens copied from the earlier occurrence")
    pld_partial: bool = option(False, "also copy from occurrences with fewer tokens after them")


class Pld(Drafter):
    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs = Needs(max_nodes=config.pld_tokens + 1)
        self._index = NgramIndex(config.pld_ngram)

    def forget(self) -> None:
        self._index = NgramIndex(self.config.pld_ngram)

    def start(self, request: Request, prefill: Prefill) -> None:
        self.forget()
        for token in (*request.prompt_ids, prefill.first_token):
            self._index.feed(token)

    def propose(self, context: Context) -> Draft:
        tokens = self._continuation()[: context.max_nodes - 1]
        return Draft.chain(context.root, until_stop(tokens, context.request.stop_ids), "pld")

    def observe(self, out: StepOut) -> None:
        for token in out.emitted:
            self._index.feed(token)

    def _continuation(self) -> list[int]:
        """What followed the oldest occurrence of the longest n-gram."""
        text, wanted = self._index.text, self.config.pld_tokens
        for n in range(min(self.config.pld_ngram, len(text) - 1), 0, -1):
            end = self._index.first_end(n)
            if end is None:
                continue
            is_full = end + wanted < len(text)
            if is_full or self.config.pld_partial:
                return text[end + 1 : end + 1 + wanted]
        return []


def build(config: Config, model: Model) -> Drafter:
    return Pld(config)
