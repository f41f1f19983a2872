"""SAM-Decoding (Hu et al. 2024): a suffix automaton finds the longest earlier match in O(1).

The longer the match, the more of what followed it is drafted: 1 + alpha * length nodes, at most
`sam_nodes`. By default the automaton lives for a question, so later samples and rounds are drafted
from the earlier ones' text. With `--sam-corpus` a second automaton over a corpus proposes a tree
where its match is longer (section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.checkpoint import open_datastore
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
from model.index.corpus_automaton import CorpusAutomaton
from model.index.counted_automaton import CountedAutomaton
from model.index.suffix_automaton import Follower, SuffixAutomaton

MATCHES = ("earliest", "latest", "frequent")
COUNTED = 64
"""Longest match, in tokens, of the latest and the frequent continuation."""


@dataclass(frozen=True)
class Config:
    sam_nodes: int = option(40, "most nodes of a draft, root included", "--samd_n_predicts")
    sam_alpha: float = option(4.0, "nodes drafted per matched token")
    sam_match: str = option(
        "earliest",
        "what is copied of a match's occurrences: 'earliest' (published), 'latest', or the"
        " 'frequent' continuation token by token",
    )
    sam_corpus: str = option(
        "",
        "a datastore whose text a second automaton is built from; 'mini': the family's own",
        "--static-sam-path",
        "--static_sam_path",
    )
    sam_corpus_tokens: int = option(
        500_000,
        "most tokens taken from it (about half a kilobyte of memory each)",
        "--static-sam-tokens",
    )

    def __post_init__(self) -> None:
        if self.sam_alpha <= 0:
            raise UserError(f"--sam-alpha must be above 0, not {self.sam_alpha:g}")
        if self.sam_match not in MATCHES:
            known = "', '".join(MATCHES)
            raise UserError(f"--sam-match is one of '{known}', not '{self.sam_match}'")


class Sam(Drafter):
    scope = "question"

    def __init__(self, config: Config, corpus: CorpusAutomaton | None = None) -> None:
        self.config, self.corpus = config, corpus
        self.needs = Needs(max_nodes=config.sam_nodes)
        self._in_corpus: Follower | None = None
        self.forget()

    def forget(self) -> None:
        self.automaton = SuffixAutomaton()
        self._text = self.automaton.open()
        self.counted = CountedAutomaton(COUNTED)
        self._counted_text = self.counted.open()

    def squeeze(self) -> None:
        self.automaton.squeeze()
        self.counted.squeeze()

    def start(self, request: Request, prefill: Prefill) -> None:
        self._text = self.automaton.open()
        self._counted_text = self.counted.open()
        if self.corpus:
            self._in_corpus = self.corpus.follow()
        self._learn((*request.prompt_ids, prefill.first_token))

    def propose(self, context: Context) -> Draft:
        alpha, room = self.config.sam_alpha, context.max_nodes - 1
        if self.corpus and self._in_corpus:
            length = self._in_corpus.match_length
            if length > self._text.match_length:
                tokens, parents = self.corpus.tree(self._in_corpus, min(room, int(alpha * length)))
                parents_of_draft = [parent + 1 for parent in parents]
                return Draft.tree(context.root, tokens, parents_of_draft, "sam_corpus")
        if self.config.sam_match == "earliest":
            tokens = self._text.continuation(room, per_match=alpha)
        else:
            by_count = self.config.sam_match == "frequent"
            tokens = self._counted_text.continuation(room, alpha, by_count)
        return Draft.chain(context.root, until_stop(tokens, context.request.stop_ids), "sam")

    def observe(self, out: StepOut) -> None:
        self._learn(out.emitted)

    def _learn(self, tokens: Sequence[int]) -> None:
        if self.corpus or self.config.sam_match == "earliest":
            self._text.feed(tokens)
        if self.config.sam_match != "earliest":
            self._counted_text.feed(tokens)
        if self._in_corpus:
            self._in_corpus.feed(tokens)


def build(config: Config, model: Model) -> Drafter:
    if not config.sam_corpus:
        return Sam(config)
    store = open_datastore(config.sam_corpus, model)
    return Sam(config, CorpusAutomaton(store.documents(config.sam_corpus_tokens)))
