"""SAM-Decoding (Hu et al. 2024): a suffix automaton over all tokens seen finds the longest earlier match in O(1).

The longer the match, the more of what followed it is drafted: 1 + alpha * length nodes, at most `sam_nodes`. By
default the automaton lives for a question, so later samples and rounds are drafted from the earlier ones' text.
"""

from dataclasses import dataclass

from model.draft import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option, until_stop
from model.engine.target import Target
from model.index.suffix_automaton import SuffixAutomaton


@dataclass(frozen=True)
class Config:
    sam_nodes: int = option(40, "most nodes of a draft, root included", "--samd_n_predicts")
    sam_alpha: float = option(4.0, "nodes drafted per matched token")


class Sam(Drafter):
    scope = "question"

    def __init__(self, config: Config) -> None:
        self.config = config
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
        for token in (*request.prompt_ids, prefill.first_token):
            self.automaton.feed(token)

    def propose(self, context: Context) -> Draft:
        sam = self.automaton
        nodes = min(self.config.sam_nodes, context.max_nodes, 1 + int(self.config.sam_alpha * sam.match_length))
        tokens = sam.text[sam.match_end + 1:sam.match_end + nodes] if sam.match_length else []
        return Draft.chain(context.root, until_stop(tokens, context.request.stop_ids), "sam")

    def observe(self, out: StepOut) -> None:
        for token in out.emitted:
            self.automaton.feed(token)


def build(config: Config, host: Target) -> Drafter:
    return Sam(config)
