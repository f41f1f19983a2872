"""SuffixDecoding (Oliaro et al. 2024), by the rule of ArcticInference and vLLM.

Two memories of counts: the running request's prompt and output, and all outputs of the scope, this
one's too. Both propose what most often followed the longest suffixes; the better score wins, of
equal ones the request's own. `--suffix-preset` sets both engines' defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.model import Model
from model.errors import UserError
from model.index.counted_automaton import CountedAutomaton, CountedFollower
from model.index.suffix_speculation import Rule, Speculation, speculate


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


class Suffix(Drafter):
    scope = "question"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs = Needs(max_nodes=config.tokens + 1)
        self.forget()

    def forget(self) -> None:
        self.outputs = CountedAutomaton(self.config.depth)
        self._open()

    def _open(self) -> None:
        self._request = CountedAutomaton(self.config.depth).open()
        self._output = self.outputs.open()
        self._in_outputs = CountedFollower(self.outputs)

    def start(self, request: Request, prefill: Prefill) -> None:
        self._open()
        self._request.feed(request.prompt_ids)
        self._in_outputs.feed(request.prompt_ids[-self.config.depth :])
        self._learn([prefill.first_token])

    def propose(self, context: Context) -> Draft:
        best = self.speculation(context)
        tokens, parents = until_stops(best, context.request.stop_ids)
        return Draft.tree(context.root, tokens, [parent + 1 for parent in parents], "suffix")

    def speculation(self, context: Context) -> Speculation:
        """What is drafted, with its score."""
        config = self.config
        rule = Rule(
            min(config.tokens, context.max_nodes - 1),
            config.suffix_factor,
            config.suffix_offset,
            config.suffix_least,
            config.suffix_tree,
        )
        own, of_outputs = speculate(self._request, rule), speculate(self._in_outputs, rule)
        return own if own.score >= of_outputs.score else of_outputs

    def observe(self, out: StepOut) -> None:
        self._learn(out.emitted)

    def _learn(self, tokens: Sequence[int]) -> None:
        self._request.feed(tokens)
        for token in tokens:
            self._output.feed((token,))
            self._in_outputs.feed((token,))


def until_stops(found: Speculation, stop_ids: frozenset[int]) -> tuple[list[int], list[int]]:
    """(tokens, parents) without what stands below a stop token; parents count from -1."""
    tokens, parents = found.tokens.tolist(), found.parents.tolist()
    if stop_ids.isdisjoint(tokens):
        return tokens, parents
    new_number = {-1: -1}
    kept: list[int] = []
    for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
        if parent in new_number:
            if token not in stop_ids:
                new_number[node] = len(kept)
            kept.append(node)
    return [tokens[node] for node in kept], [new_number[parents[node]] for node in kept]


def build(config: Config, model: Model) -> Drafter:
    return Suffix(config)
