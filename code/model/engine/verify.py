"""One verification step for any number of sequences: one forward over all drafts, the walk, the kept cache rows.

The walk: at each node take the target's own token (`sampling.py`); move to the child that carries it, else stop, and
that token is the bonus. Stop ids, the token budget and the forced end of thinking act on every emitted token inside
the walk, so all methods end at the same token.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.draft import Draft, Needs, Request, StepOut
from model.engine.attention import Segment
from model.engine.sampling import rejection_tokens, target_tokens
from model.engine.static import Choice
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
    bits = [1]
    for i in range(1, m):  # whole rows as integers: four times faster than rows of an array
        bits.append(bits[draft.parents[i]] | 1 << i)
    width = (n + 7) // 8
    packed = np.frombuffer(b"".join(row.to_bytes(width, "little") for row in bits), dtype=np.uint8).reshape(m, width)
    mask = np.unpackbits(packed, axis=1, count=n, bitorder="little").view(bool)
    return mask if n == m else np.concatenate([mask, draft.extra_mask])


def segment_of(sequence: "Sequence", draft: Draft, depths: list[int]) -> Segment:
    """The rows of one draft behind the sequence's cached ones."""
    mask = None if draft.is_chain else torch.from_numpy(tree_mask(draft))
    return Segment(sequence.slot, sequence.cached, draft.tokens, [sequence.cached + d for d in depths], mask)


@dataclass(frozen=True)
class Read:
    """What the host reads of one draft's forward: the target's token after every node, its likeliest tokens."""

    own: list[int]
    topk: np.ndarray | None = None


def _choice(work: list[tuple["Sequence", Draft]], depths: list[list[int]]) -> Choice:
    """What the forward itself may pick: the argmax, or a draw with this position's noise for the single sequence."""
    (sequence, draft), depth = work[0], depths[0]
    request, first = sequence.request, len(sequence.ids)
    if len(work) > 1 or request.temperature == 0 or not _plain(request, draft):
        return Choice()
    key = dict(zip(levels := sorted(set(depth[:draft.candidates])), sequence.noise.keys([first + d for d in levels])))
    return Choice(request.temperature, [key[d] if i < draft.candidates else 0 for i, d in enumerate(depth)])


def _plain(request: Request, draft: Draft) -> bool:
    """Nothing but a temperature stands between the logits and the token."""
    return not request.top_k and request.top_p >= 1 and draft.probabilities is None


def _read(output: Output, work: list[tuple["Sequence", Draft]], depths: list[list[int]], topk: int) -> list[Read]:
    """One transfer to the host for all drafts."""
    if output.picked is not None:
        (sequence, draft), = work
        if sequence.request.temperature == 0 or _plain(sequence.request, draft):
            picked, m = output.picked.cpu().numpy(), draft.candidates
            own = [*picked[:m, 1 if sequence.request.temperature else 0].tolist(), *picked[m:, 0].tolist()]
            return [Read(own, picked[:m, 2:] if topk else None)]
    found, row = [], 0
    for (sequence, draft), depth in zip(work, depths):
        logits = output.logits[row:row + len(draft.tokens)]
        row += len(draft.tokens)
        tokens = _own_tokens(logits, sequence, draft, depth)[:, None]
        if topk:
            tokens = torch.cat([tokens, logits.topk(topk, dim=-1).indices], dim=1)
        found.append(tokens)
    rows = (found[0] if len(found) == 1 else torch.cat(found)).cpu().numpy()
    ends = np.cumsum([0] + [len(draft.tokens) for _, draft in work])
    return [Read(rows[a:b, 0].tolist(), rows[a:a + draft.candidates, 1:] if topk else None)
            for (a, b), (_, draft) in zip(itertools.pairwise(ends), work)]


def _own_tokens(logits: torch.Tensor, sequence: "Sequence", draft: Draft, depth: list[int]) -> torch.Tensor:
    """The target's token [n] after every node of one draft; after extra nodes its argmax."""
    request, first, m = sequence.request, len(sequence.ids), draft.candidates
    if draft.probabilities is not None and request.temperature > 0:
        tokens = rejection_tokens(logits, draft, first, request, sequence.noise)
    else:
        tokens = target_tokens(logits[:m], depth[:m], first, request, sequence.noise)
    return torch.cat([tokens, logits[m:].argmax(-1)]) if m < len(draft.tokens) else tokens


def verify(target: Target, work: list[tuple["Sequence", Draft]], needs: Needs,
           meanwhile: Callable[[], None] = lambda: None) -> tuple[list[StepOut], float]:
    """Verify each sequence's draft; returns the steps and the moment the tokens were read (`perf_counter`).

    `meanwhile` is called once the forward is launched: on a GPU the host works while the device does.
    """
    depths = []
    for _, draft in work:
        draft.validate(needs.max_nodes, target.vocab_size)
        depths.append(draft.depths())
    segments = [segment_of(s, d, depth) for (s, d), depth in zip(work, depths)]
    choice = _choice(work, depths) if target.static else None
    output = target.forward(segments, feature_layers=needs.feature_layers, choice=choice, topk=needs.topk)
    meanwhile()
    reads = _read(output, work, depths, needs.topk)
    read_at = perf_counter()
    outs, row = [], 0
    for (sequence, draft), read in zip(work, reads):
        outs.append(_accept(target, sequence, draft, read, output, row, needs))
        row += len(draft.tokens)
    return outs, read_at


def _accept(target: Target, sequence: "Sequence", draft: Draft, read: Read, output: Output, row: int,
            needs: Needs) -> StepOut:
    path, emitted = walk(draft, read.own, sequence.emission)
    target.keep(sequence.slot, sequence.cached, path)
    sequence.cached += len(path)
    sequence.accept_lengths.append(len(emitted))
    sequence.draft_lengths.append(draft.candidates - 1)
    sequence.sources.append(draft.source)
    features = None
    if needs.feature_layers:
        features = output.features[row:row + len(read.own)]
        features = features[path] if path[-1] >= len(path) else features[:len(path)].clone()  # the next step reuses them
    return StepOut(draft, path, emitted, sequence.emission.finished, features, read.topk, read.own[draft.candidates:])
