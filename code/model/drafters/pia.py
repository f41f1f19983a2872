"""PIA (Zhao et al. 2024, "Lookahead: an inference acceleration framework"): drafts from a trie of earlier text.

The trie knows what followed each token in the prompt and in outputs, the prompt outweighing outputs ten thousand to
one. The tree below the last two tokens is drafted; where it is small, the one below the last token alone. Nodes are
filled best first instead of depth first, so none is without a path.
"""

from dataclasses import dataclass

from model.draft import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.target import Target
from model.index.ngram_trie import NgramTrie


@dataclass(frozen=True)
class Config:
    branch_length: int = option(12, "tokens of a branch")
    decoding_length: int = option(64, "nodes of a draft, root included")
    output_weight: float = option(1e-4, "weight of output frequencies against the prompt's")


class Pia(Drafter):
    scope = "question"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs = Needs(max_nodes=config.decoding_length)
        self.forget()

    def forget(self) -> None:
        self.trie = NgramTrie(self.config.branch_length + 1)
        self._pending: list[int] = []
        self._previous = -1

    def start(self, request: Request, prefill: Prefill) -> None:
        self.trie.new_request()
        self.trie.put(request.prompt_ids, is_output=False)
        self._previous = request.prompt_ids[-1]
        self._pending = [request.prompt_ids[-1], prefill.first_token]

    def propose(self, context: Context) -> Draft:
        limit = min(self.config.decoding_length, context.max_nodes) - 1
        tokens: list[int] = []
        parents: list[int] = []
        for query in ([self._previous, context.root], [context.root]):
            node = self.trie.find(query)
            if node is None:
                continue
            tokens, parents = self.trie.best(node, limit, self.config.branch_length, self.config.output_weight)
            if len(tokens) + 1 >= min(self.config.branch_length, limit + 1):
                break
        kept = _prune_after_stop(tokens, parents, context.request.stop_ids)
        return Draft([context.root, *(t for t, _ in kept)], [-1, *(p + 1 for _, p in kept)], len(kept) + 1,
                     "pia" if kept else "none")

    def observe(self, out: StepOut) -> None:
        self._previous = ([out.draft.tokens[0], *out.emitted])[-2]
        self._pending.extend(out.emitted)

    def finish(self, request: Request, output_ids: list[int]) -> None:
        self.settle()
        self.trie.put(self._pending, is_output=True)
        self._pending = []
        self.trie.squeeze()

    def settle(self) -> None:
        """Every position is added once, as soon as its whole window is known: while the next forward runs."""
        pending, length = self._pending, self.trie.length
        ready = len(pending) - length
        if ready > 0:
            self.trie.put(pending, is_output=True, last=ready)
            del pending[:ready]


def _prune_after_stop(tokens: list[int], parents: list[int], stop_ids: frozenset[int]) -> list[tuple[int, int]]:
    """(token, parent) pairs without what stands below a stop id."""
    number: dict[int, int] = {-1: -1}
    kept: list[tuple[int, int]] = []
    for i, (token, parent) in enumerate(zip(tokens, parents)):
        if parent in number and (parent < 0 or tokens[parent] not in stop_ids):
            number[i] = len(kept)
            kept.append((token, number[parent]))
    return kept


def build(config: Config, host: Target) -> Drafter:
    return Pia(config)
