"""One verification step for any number of sequences: one forward over all drafts, the walk, the kept cache rows.

The walk: at each node take the target's own token (`sampling.py`); move to the child that carries it, else stop, and
that token is the bonus. Stop ids, the token budget and the forced end of thinking act on every emitted token inside
the walk, so all methods end at the same token.
"""

import itertools
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.draft import Draft, Needs, Request, StepOut
from model.engine.attention import Segment
from model.engine.sampling import rejection_tokens, target_tokens
from model.engine.target import Output, Target

if TYPE_CHECKING:
    from model.engine.decode import Sequence


class Emission:
    """The tokens of one generation and the rules that end it: stop ids, token budget, forced end of thinking."""

    def __init__(self, request: Request) -> None:
        self.ids: list[int] = []
        self.forced = 0
        self.reason = ""
        self._request = request
        self._pending: list[int] = []
        self._open = request.forcing is not None

    @property
    def finished(self) -> bool:
        return bool(self.reason)

    def emit(self, own: int) -> int:
        """Emit the target's own token, or the forced one in its place; returns what was emitted."""
        request, forcing = self._request, self._request.forcing
        if self._open and len(self.ids) >= forcing.after:
            self._pending, self._open = list(forcing.ids), False
        token = own
        if self._pending:
            token = self._pending.pop(0)
            self.forced += 1
        elif self._open and token == forcing.end_id:
            self._open = False
        self.ids.append(token)
        if token in request.stop_ids:
            self.reason = "stop"
        elif len(self.ids) >= request.max_new_tokens:
            self.reason = "length"
        return token


def walk(draft: Draft, own: list[int], emission: Emission) -> tuple[list[int], list[int]]:
    """Follow the target's tokens down the tree; returns (kept nodes, emitted tokens), equally many."""
    parents, tokens = draft.parents, draft.tokens
    children = {(parents[i], tokens[i]): i for i in range(1, draft.candidates)}
    path, emitted, node = [0], [], 0
    while True:
        token = emission.emit(own[node])
        emitted.append(token)
        node = children.get((node, token))
        if node is None or emission.finished:
            return path, emitted
        path.append(node)


def tree_mask(draft: Draft) -> np.ndarray:
    """Which nodes each node attends, bool [n, n]: its ancestors and itself; extra nodes as they say."""
    n, m = len(draft.tokens), draft.candidates
    mask = np.zeros((n, n), dtype=bool)
    mask[0, 0] = True
    for i in range(1, m):
        mask[i] = mask[draft.parents[i]]
        mask[i, i] = True
    if n > m:
        mask[m:] = draft.extra_mask
    return mask


def segment_of(sequence: "Sequence", draft: Draft, depths: list[int], device: torch.device) -> Segment:
    """The rows of one draft behind the sequence's cached ones."""
    mask = None if draft.is_chain else torch.from_numpy(tree_mask(draft)).to(device)
    return Segment(sequence.slot, sequence.cached, draft.tokens, [sequence.cached + d for d in depths], mask)


def _own_tokens(output: Output, work: list[tuple["Sequence", Draft]], depths: list[list[int]]) -> list[list[int]]:
    """The target's token after every node of every draft; one transfer to the host for all of them."""
    found, row = [], 0
    for (sequence, draft), depth in zip(work, depths):
        logits, request = output.logits[row:row + len(draft.tokens)], sequence.request
        row += len(draft.tokens)
        first, m = len(sequence.ids), draft.candidates
        if draft.probabilities is not None and request.temperature > 0:
            tokens = rejection_tokens(logits, draft, first, request, sequence.noise)
        else:
            tokens = target_tokens(logits[:m], depth[:m], first, request, sequence.noise)
        found.append(torch.cat([tokens, logits[m:].argmax(-1)]) if m < len(draft.tokens) else tokens)
    flat = (found[0] if len(found) == 1 else torch.cat(found)).tolist()
    ends = np.cumsum([0] + [len(draft.tokens) for _, draft in work])
    return [flat[a:b] for a, b in itertools.pairwise(ends)]


def verify(target: Target, work: list[tuple["Sequence", Draft]], needs: Needs) -> tuple[list[StepOut], float]:
    """Verify each sequence's draft; returns the steps and the moment the tokens were read (`perf_counter`)."""
    depths = []
    for _, draft in work:
        draft.validate(needs.max_nodes, target.vocab_size)
        depths.append(draft.depths())
    segments = [segment_of(s, d, depth, target.device) for (s, d), depth in zip(work, depths)]
    output = target.forward(segments, feature_layers=needs.feature_layers)
    own = _own_tokens(output, work, depths)
    read = perf_counter()
    outs, row = [], 0
    for (sequence, draft), tokens in zip(work, own):
        outs.append(_accept(target, sequence, draft, tokens, output, row, needs))
        row += len(draft.tokens)
    return outs, read


def _accept(target: Target, sequence: "Sequence", draft: Draft, own: list[int], output: Output, row: int,
            needs: Needs) -> StepOut:
    path, emitted = walk(draft, own, sequence.emission)
    target.cache.keep(sequence.slot, sequence.cached, path)
    sequence.cached += len(path)
    sequence.accept_lengths.append(len(emitted))
    sequence.draft_lengths.append(draft.candidates - 1)
    sequence.sources.append(draft.source)
    features = topk = None
    if needs.feature_layers:
        features = output.features[row:row + len(own)][path]
    if needs.topk:
        topk = output.logits[row:row + draft.candidates].topk(needs.topk, dim=-1).indices.cpu().numpy()
    return StepOut(draft, path, emitted, sequence.emission.finished, features, topk, own[draft.candidates:])
