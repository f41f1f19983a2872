"""SAM-Decoding (Hu et al. 2024): a suffix automaton over all tokens seen finds the longest earlier match in O(1).

The longer the match, the more of what followed it is drafted: 1 + alpha * length nodes, at most `sam_nodes`. By
default the automaton lives for a question, so later samples and rounds are drafted from the earlier ones' text. With
`--static-sam-path` a second automaton over a corpus proposes a tree where its match is longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import MINI, open_for, tokenizer_hash
from model.draft import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option, until_stop
from model.engine.target import Target
from model.index.static_automaton import StaticAutomaton
from model.index.suffix_automaton import SuffixAutomaton


@dataclass(frozen=True)
class Config:
    sam_nodes: int = option(40, "most nodes of a draft, root included", "--samd_n_predicts")
    sam_alpha: float = option(4.0, "nodes drafted per matched token")
    static_sam_path: str = option("", "a datastore whose text a static automaton is built from; 'mini': the family's own",
                                  "--static_sam_path")
    static_sam_tokens: int = option(500_000, "most tokens taken from it (about half a kilobyte of memory each)")


class Sam(Drafter):
    scope = "question"

    def __init__(self, config: Config, static: StaticAutomaton | None = None) -> None:
        self.config, self.static = config, static
        self.needs = Needs(max_nodes=config.sam_nodes)
        self.automaton = SuffixAutomaton()
        self._requests = 0

    def forget(self) -> None:
        self.automaton = SuffixAutomaton()
        self._requests = 0

    def start(self, request: Request, prefill: Prefill) -> None:
        self._requests += 1
        # a token of its own before every request: no match and no draft runs from one request into the next
        self.automaton.feed(-1 - self._requests)
        if self.static:
            self.static.restart()
        self._learn((*request.prompt_ids, prefill.first_token))

    def propose(self, context: Context) -> Draft:
        sam = self.automaton
        if self.static and self.static.match_length > sam.match_length:
            return self._static_tree(context)
        nodes = min(self.config.sam_nodes, context.max_nodes, 1 + int(self.config.sam_alpha * sam.match_length))
        tokens = sam.text[sam.match_end + 1:sam.match_end + nodes] if sam.match_length else []
        return Draft.chain(context.root, until_stop(tokens, context.request.stop_ids), "sam")

    def observe(self, out: StepOut) -> None:
        self._learn(out.emitted)

    def _learn(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.automaton.feed(token)
            if self.static:
                self.static.match(token)

    def _static_tree(self, context: Context) -> Draft:
        room = min(self.config.sam_nodes, context.max_nodes, 1 + int(self.config.sam_alpha * self.static.match_length))
        tokens, parents = self.static.tree(room - 1)
        return Draft([context.root, *tokens], [-1, *(p + 1 for p in parents)], len(tokens) + 1,
                     "sam_static" if tokens else "none")


def build(config: Config, host: Target) -> Drafter:
    if not config.static_sam_path:
        return Sam(config)
    file = MINI / "rest.datastore" if config.static_sam_path == "mini" else Path(config.static_sam_path)
    store = open_for(file, host.vocab_size, tokenizer_hash(host.path))
    return Sam(config, StaticAutomaton(store.documents(config.static_sam_tokens)))
