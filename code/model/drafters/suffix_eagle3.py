"""suffix[X]: SuffixDecoding where its draft is sure enough, X elsewhere (ArcticInference's hybrid).

The suffix draft is taken where its score, the tokens it expects to be accepted, reaches what X
would draft. As a method of its own X is EAGLE-3.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.composite import Composite
from model.contract import Context, Draft, Drafter, Prefill, Request, StepOut, option
from model.drafting import Drafting
from model.engine.model import Model
from model.errors import UserError
from model.index.suffix_speculation import Rule, SuffixMemory

COMPOSES = "suffix"
INNER = "eagle3"


@dataclass(frozen=True)
class Config:
    suffix_depth: int = option(64, "longest string counted")
    suffix_tokens: int = option(16, "most tokens drafted")
    suffix_factor: float = option(1.0, "tokens drafted per matched token")
    suffix_offset: float = option(0.0, "tokens drafted beside these")
    suffix_least: float = option(0.1, "no token of a smaller probability")
    suffix_tree: bool = option(False, "draft all likely continuations instead of the likeliest")
    suffix_reach: float = option(
        6.0, "score from which the suffix draft is taken: the tokens a chain of X's would have"
    )

    def __post_init__(self) -> None:
        if self.suffix_depth < 2 or self.suffix_tokens < 1:
            raise UserError("--suffix-depth must be at least 2, --suffix-tokens at least 1")


class SuffixWith(Composite):
    def __init__(self, config: Config, inner: Drafter) -> None:
        super().__init__(inner, config.suffix_tokens + 1)
        self.config = config
        self.forget()

    def forget(self) -> None:
        self.memory = SuffixMemory(self.config.suffix_depth)
        self._text = self.memory.open()

    def squeeze(self) -> None:
        self.memory.squeeze()

    def start(self, request: Request, prefill: Prefill) -> None:
        self._text = self.memory.open()
        self._text.feed_prompt(request.prompt_ids)
        self._text.feed([prefill.first_token])
        super().start(request, prefill)

    def drafting(self, context: Context) -> Drafting[Draft]:
        config = self.config
        most = min(config.suffix_tokens, context.max_nodes - 1)
        rule = Rule(
            most,
            config.suffix_factor,
            config.suffix_offset,
            config.suffix_least,
            config.suffix_tree,
        )
        best = self._text.speculate(rule)
        if best.score < config.suffix_reach:
            return (yield from self.drafting_of_inner(context))
        tokens, parents = best.until(context.request.stop_ids)
        return Draft.tree(context.root, tokens, [parent + 1 for parent in parents], "suffix")

    def observe(self, out: StepOut) -> None:
        self._text.feed(out.emitted)
        super().observe(out)


def build(config: Config, model: Model, inner: Drafter) -> Drafter:
    return SuffixWith(config, inner)
