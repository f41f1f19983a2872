"""EAGLE-3 (Li et al. 2025): a one-layer head over three of the target's layers drafts a dynamic tree.

Scores are cumulative draft log-probabilities; the best `total_token` - 1 nodes are kept. Children are the head's
top-k, not samples, so verification by the target's own token is exact at every temperature.
"""

import dataclasses
import sys
import warnings
from dataclasses import dataclass

import torch

from model.checkpoint import MINI
from model.draft import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.eagle3.checkpoint import load_head
from model.eagle3.head import Eagle3Head
from model.eagle3.static import StaticDraft
from model.eagle3.tree import DraftState, Tree
from model.engine.target import Target
from model.errors import UserError

GROWTH = 4096  # positions: a larger state means new graphs
FLUSH = 256  # rows queued while another drafter is at work before they are fed to the head


@dataclass(frozen=True)
class Config:
    ea_model_path: str = option("mini", "EAGLE-3 head: a folder, a hub id, or 'mini'", "--tree_model_path")
    total_token: int = option(60, "nodes of a draft, root included")
    depth: int = option(5, "levels below the first")
    top_k: int = option(10, "nodes expanded a level, and children of each")


class Eagle3(Drafter):
    def __init__(self, config: Config, head: Eagle3Head, embedding: torch.Tensor, static: bool = False) -> None:
        self.head, self.embedding, self._static = head, embedding, static
        self.config = dataclasses.replace(config, top_k=min(config.top_k, config.total_token - 1, head.config.draft_vocab))
        self.needs = Needs(max_nodes=config.total_token, feature_layers=head.config.feature_layers)
        self.state: DraftState | None = None
        self._whole: StaticDraft | None = None
        self._features: list[torch.Tensor] = []
        self._tokens: list[int] = []
        self._warned = False

    def start(self, request: Request, prefill: Prefill) -> None:
        length = len(request.prompt_ids) + request.max_new_tokens
        if length > self.head.config.trained_length and not self._warned:
            print(f"warning: this EAGLE-3 head was trained on {self.head.config.trained_length} tokens, the run has up to"
                  f" {length}: expect its acceptance to fall beyond", file=sys.stderr)
            self._warned = True
        self.reserve(length)
        self._features = [prefill.features]
        self._tokens = [*request.prompt_ids[1:], prefill.first_token]

    def reserve(self, positions: int) -> None:
        """A state for texts of so many tokens: the old one where it is large enough, since graphs hold on to its memory."""
        positions += 1 + (self.config.depth + 1) * self.config.top_k
        if self.state and self.state.positions >= positions:
            self.state.reset()
            return
        rounded = (positions + GROWTH - 1) // GROWTH * GROWTH if self._static else positions
        self.state, self._whole = None, None
        self.state = DraftState(self.head, self.embedding, rounded)
        if self._static:
            self._prepare()

    def _prepare(self) -> None:
        """Record the whole draft as graphs; where that fails it is drafted level by level, and this is said."""
        c = self.config
        self._whole = StaticDraft(self.state, c.top_k, c.depth, c.total_token - 1)
        why = "as recorded is another than level by level"
        try:
            self._static = self._whole.prepare()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Triton and CUDA raise types of their own
            self._static, why = False, f"cannot be recorded here ({type(error).__name__}: {error})"
        if not self._static:
            warnings.warn(f"EAGLE-3's draft {why}; it is drafted level by level", stacklevel=2)
            self._whole = None
        self.state.reset()

    def propose(self, context: Context) -> Draft:
        nodes = min(self.config.total_token, context.max_nodes) - 1
        depth = min(self.config.depth, context.remaining - 1)
        if nodes < 1 or depth < 0:
            return Draft.only_root(context.root)
        k = min(self.config.top_k, nodes, self.head.config.draft_vocab)
        tree = self._grow(k, depth, nodes)
        return Draft([context.root, *tree.tokens], [-1, *tree.parents], len(tree.tokens) + 1, "eagle3")

    def observe(self, out: StepOut) -> None:
        if out.finished:
            return
        self._features.append(out.features)
        self._tokens.extend(out.emitted)
        if len(self._tokens) >= FLUSH:
            self._flush()

    def finish(self, request: Request, output_ids: list[int]) -> None:
        self._features, self._tokens = [], []

    def _grow(self, k: int, depth: int, nodes: int) -> Tree:
        """The whole draft as one graph where its shape is the configured one; near the end of a text it is smaller."""
        c = self.config
        usual = depth == c.depth and nodes == c.total_token - 1 and k == c.top_k
        if self._static and usual and self._tokens and self._whole.takes(len(self._tokens)):
            tree = self._whole.step(torch.cat(self._features), self._tokens)
            self._features, self._tokens = [], []
            return tree
        self._flush()
        return self.state.grow(k, depth, nodes)

    def _flush(self) -> None:
        if self._tokens:
            self.state.catch_up(torch.cat(self._features), self._tokens)
            self._features, self._tokens = [], []


def build(config: Config, host: Target) -> Drafter:
    if config.total_token < 2 or config.depth < 0 or config.top_k < 1:
        raise UserError("EAGLE-3 needs --total-token of at least 2, --depth of at least 0 and --top-k of at least 1")
    path = str(MINI / "eagle3") if config.ea_model_path == "mini" else config.ea_model_path
    head = load_head(path, host.config, host.vocab_size).to(host.device, host.dtype)
    own = head.config.own_embeddings
    embedding = head.embed_tokens.weight if own else host.model.get_input_embeddings().weight
    static = host.device.type == "cuda" and host.engine != "eager"
    return Eagle3(config, head, embedding, static)
