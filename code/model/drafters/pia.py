"""PIA (Zhao et al. 2024, "Lookahead: an inference acceleration framework"): drafts from a trie.

The trie knows what followed each token in the prompt and in outputs, the prompt outweighing outputs
ten thousand to one. The tree below the last two tokens is drafted; where it is small, the one below
the last token alone. Nodes are filled best first instead of depth first, so none is without a path.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.model import Model
from model.errors import UserError
from model.index.ngram_trie import NgramTrie


@dataclass(frozen=True)
class Config:
    pia_branch_length: int = option(12, "tokens of a branch", "--branch-length")
    pia_nodes: int = option(64, "nodes of a draft, root included", "--decoding-length")
    pia_output_weight: float = option(
        1e-4, "weight of output frequencies against the prompt's", "--output-weight"
    )

    def __post_init__(self) -> None:
        if self.pia_branch_length < 1 or not 0 <= self.pia_output_weight <= 1:
            raise UserError(
                "--pia-branch-length must be at least 1, --pia-output-weight between 0 and 1"
            )


class Pia(Drafter):
    scope = "question"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs = Needs(max_nodes=config.pia_nodes)
        self.forget()

    def forget(self) -> None:
        self.trie = NgramTrie(self.config.pia_branch_length + 1)
        self._pending: list[int] = []
        """Emitted tokens whose windows are not all in the trie."""
        self._previous = -1
        """The token before the root."""

    def start(self, request: Request, prefill: Prefill) -> None:
        last_of_prompt = request.prompt_ids[-1:]  # none in a replay of a text without its prompt
        self.trie.new_request()
        self.trie.put(request.prompt_ids, is_output=False)
        self._previous = last_of_prompt[0] if last_of_prompt else -1
        self._pending = [*last_of_prompt, prefill.first_token]

    def propose(self, context: Context) -> Draft:
        length, weight = self.config.pia_branch_length, self.config.pia_output_weight
        limit = min(self.config.pia_nodes, context.max_nodes) - 1
        tokens: list[int] = []
        parents: list[int] = []
        for query in ([self._previous, context.root], [context.root]):
            node = self.trie.find(query)
            if node is None:
                continue
            tokens, parents = self.trie.best(node, limit, length, weight)
            if len(tokens) + 1 >= min(length, limit + 1):
                break
        tokens, parents = _pruned_after_stop(tokens, parents, context.request.stop_ids)
        parents_of_draft = [parent + 1 for parent in parents]
        return Draft.tree(context.root, tokens, parents_of_draft, "pia")

    def observe(self, out: StepOut) -> None:
        self._previous = [out.draft.tokens[0], *out.emitted][-2]
        self._pending.extend(out.emitted)
        self._learn()

    def _learn(self) -> None:
        """Every position is added once, as soon as its whole window is known."""
        whole_windows = len(self._pending) - self.trie.length
        if whole_windows > 0:
            self.trie.put(self._pending, is_output=True, last=whole_windows)
            del self._pending[:whole_windows]

    def finish(self, request: Request, output_ids: list[int]) -> None:
        self._learn()
        self.trie.put(self._pending, is_output=True)
        self._pending = []
        self.trie.squeeze()


def _pruned_after_stop(
    tokens: list[int], parents: list[int], stop_ids: frozenset[int]
) -> tuple[list[int], list[int]]:
    """The tree without what stands below a stop id; parents count from -1."""
    new_number = {-1: -1}
    kept_tokens: list[int] = []
    kept_parents: list[int] = []
    for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
        is_below_stop = parent >= 0 and tokens[parent] in stop_ids
        if parent in new_number and not is_below_stop:
            new_number[node] = len(kept_tokens)
            kept_tokens.append(token)
            kept_parents.append(new_number[parent])
    return kept_tokens, kept_parents


def build(config: Config, model: Model) -> Drafter:
    return Pia(config)
