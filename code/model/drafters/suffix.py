"""SuffixDecoding (Oliaro et al. 2024), by the rule of ArcticInference and vLLM.

Two memories of counts: the running request's prompt and output, and all outputs of the scope, this
one's too. Both propose what most often followed the longest suffixes; the better score wins, of
equal ones the request's own. `--suffix-preset` sets both engines' defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.model import Model
from model.errors import UserError
from model.index.suffix_speculation import Rule, SuffixMemory


@dataclass(frozen=True)
class Preset:
    """An engine's defaults."""

    depth: int
    tokens: int
    """Most drafted."""


PRESETS = {"arctic": Preset(depth=64, tokens=16), "vllm": Preset(depth=24, tokens=24)}


@dataclass(frozen=True)
class Config:
    suffix_preset: str = option("arctic", "defaults of depth and tokens: 'arctic' or 'vllm'")
    suffix_depth: int = option(0, "longest string counted; 0: the preset's (64, 24)")
    suffix_tokens: int = option(0, "most tokens drafted; 0: the preset's (16, 24)")
    suffix_factor: float = option(1.0, "tokens drafted per matched token")
    suffix_offset: float = option(0.0, "tokens drafted beside these")
    suffix_least: float = option(0.1, "no token of a smaller probability")
    suffix_tree: bool = option(False, "draft all likely continuations instead of the likeliest")

    def __post_init__(self) -> None:
        if self.suffix_preset not in PRESETS:
            known = "' or '".join(PRESETS)
            raise UserError(f"--suffix-preset is '{known}', not '{self.suffix_preset}'")
        if self.depth < 2 or self.tokens < 1:
            raise UserError("--suffix-depth must be at least 2, --suffix-tokens at least 1")

    @property
    def depth(self) -> int:
        return self.suffix_depth or PRESETS[self.suffix_preset].depth

    @property
    def tokens(self) -> int:
        return self.suffix_tokens or PRESETS[self.suffix_preset].tokens

    def rule(self, room: int) -> Rule:
        """How much is drafted, with room for so many tokens."""
        return Rule(
            min(self.tokens, room),
            self.suffix_factor,
            self.suffix_offset,
            self.suffix_least,
            self.suffix_tree,
        )


class Suffix(Drafter):
    scope = "question"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs = Needs(max_nodes=config.tokens + 1)
        self.forget()

    def forget(self) -> None:
        self.memory = SuffixMemory(self.config.depth)
        self._text = self.memory.open()

    def squeeze(self) -> None:
        self.memory.squeeze()

    def start(self, request: Request, prefill: Prefill) -> None:
        self._text = self.memory.open()
        self._text.feed_prompt(request.prompt_ids)
        self._text.feed([prefill.first_token])

    def propose(self, context: Context) -> Draft:
        best = self._text.speculate(self.config.rule(context.max_nodes - 1))
        tokens, parents = best.until(context.request.stop_ids)
        return Draft.tree(context.root, tokens, [parent + 1 for parent in parents], "suffix")

    def observe(self, out: StepOut) -> None:
        self._text.feed(out.emitted)


def build(config: Config, model: Model) -> Drafter:
    return Suffix(config)
