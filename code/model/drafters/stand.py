"""STAND (Song et al. 2025, arXiv 2506.04708): n-grams with the target's probabilities, drawn by its
own noise.

Every n-gram of the question's texts, 4 tokens down to 1, remembers the target's ten likeliest next
tokens with their mean probability. A draft follows the longest known n-gram at every node of a
static tree, its children drawn by Gumbel-top-k. The paper draws them with noise of its own; here
it is the noise of the position that a node would be emitted at, the target's: what the target
would draw comes first more often, and the text stays vanilla's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.model import Model
from model.errors import UserError
from model.index.topk_ngrams import CONTEXT, TOP, TopkNgrams
from model.static_tree import StaticTree

BUILT_IN_TREE = Path(__file__).parents[1] / "static_trees" / "stand.json"
REPLAY_NEEDS = "the target's likeliest tokens"


@dataclass(frozen=True)
class Config:
    stand_nodes: int = option(81, "most nodes of a draft, root included")
    stand_tree: str = option("", "file of the static tree; default: the one built in")

    def __post_init__(self) -> None:
        if self.stand_nodes < 2:
            raise UserError("--stand-nodes must be at least 2: the root and a drafted node")


class Stand(Drafter):
    scope = "question"

    def __init__(self, tree: StaticTree) -> None:
        self.tree = tree
        self.needs = Needs(max_nodes=len(tree), target_topk=TOP, gives_chances=True)
        self._parents, self._chances = np.array(tree.parents), np.array(tree.chances)
        self.forget()

    def forget(self) -> None:
        self.memory = TopkNgrams()

    def start(self, request: Request, prefill: Prefill) -> None:
        self._recent = [*request.prompt_ids[-CONTEXT:], prefill.first_token]
        self._stops = np.array(sorted(request.stop_ids), dtype=np.int64)

    def propose(self, context: Context) -> Draft:
        nodes = min(context.max_nodes, len(self.tree))
        deepest = max(self.tree.depths[:nodes])
        positions = list(range(context.emitted, context.emitted + deepest))
        keys = context.noise.keys(positions)
        temperature = context.request.temperature
        self.drafted, tokens = self.memory.draft(
            self._recent, self.tree, nodes, self._stops, temperature, keys
        )
        new_number = np.zeros(nodes, dtype=np.int64)
        new_number[self.drafted] = np.arange(1, len(self.drafted) + 1)
        parents = new_number[self._parents[self.drafted]]
        return Draft.tree(
            context.root,
            tokens.tolist(),
            parents.tolist(),
            "stand",
            self._chances[self.drafted].tolist(),
        )

    def observe(self, out: StepOut) -> None:
        text = [*self._recent, *out.emitted]
        self._recent = text[-CONTEXT:]
        if out.target_topk is not None and out.target_logprobs is not None:
            path = out.path  # the root, and what was emitted but for the new root
            self.memory.learn(text[:-1], out.target_topk[path], out.target_logprobs[path])

    def finish(self, request: Request, output_ids: list[int]) -> None:
        self.memory.squeeze()


def build(config: Config, model: Model) -> Drafter:
    file = Path(config.stand_tree) if config.stand_tree else BUILT_IN_TREE
    tree = StaticTree.read(file, TOP)
    return Stand(tree.first(config.stand_nodes))
