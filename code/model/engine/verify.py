"""One verification step for any number of sequences: one forward over all drafts, then the walk.

The walk: at each node take the target's own token (`sampling.py`); move to the child that carries
it, else stop, and that token is the bonus. Stop ids, the token budget and the forced end of
thinking act on every emitted token inside the walk, so all methods end at the same token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from model.contract import Draft, Needs, StepOut
from model.engine.forward import Draw, HostPicked, Output, Picked, Segment, Wanted
from model.engine.model import Model
from model.engine.sampling import rejection_tokens, target_tokens, tokens_of_keys
from model.engine.sequence import Emission, Sequence


@dataclass(frozen=True)
class Work:
    """One sequence's draft in a step: its nodes' depths and the rows they take in the forward."""

    sequence: Sequence
    draft: Draft
    depths: list[int]
    rows: slice

    @property
    def forward_may_pick(self) -> bool:
        """May the forward itself pick the tokens: nothing but a temperature is applied?"""
        request = self.sequence.request
        if request.temperature == 0:
            return True
        return request.only_temperature and self.draft.probabilities is None

    def segment(self) -> Segment:
        """The draft's rows behind the sequence's cached ones."""
        sequence, draft = self.sequence, self.draft
        mask = None if draft.is_chain else torch.from_numpy(tree_mask(draft))
        positions = [sequence.cached + depth for depth in self.depths]
        return Segment(sequence.slot, sequence.cached, draft.tokens, positions, mask)

    def keys(self) -> list[int]:
        """The noise key of every row; 0 at extra nodes, where nothing is drawn."""
        sequence, candidates = self.sequence, self.draft.candidates
        positions = [len(sequence.ids) + depth for depth in self.depths[:candidates]]
        extra_nodes = len(self.depths) - candidates
        return sequence.noise.keys(positions) + [0] * extra_nodes


@dataclass(frozen=True)
class Choices:
    """What the host reads of one draft's forward."""

    tokens: list[int]
    """The target's token after every node; after extra nodes its argmax."""
    target_topk: np.ndarray | None = None
    """The target's likeliest tokens after every candidate, [candidates, K]."""
    target_logprobs: np.ndarray | None = None
    """And their log-probabilities."""

    @classmethod
    def of(cls, tokens: list[int], picked: HostPicked, candidates: int, topk: int) -> Choices:
        """With the likeliest tokens where they were asked for."""
        if not topk:
            return cls(tokens)
        best = picked.rows(slice(candidates))
        return cls(tokens, best.target_topk, best.target_logprobs)


@dataclass(frozen=True)
class Verified:
    """The steps of all sequences, and when their tokens were read (`perf_counter`)."""

    outs: list[StepOut]
    read_at: float


def tree_mask(draft: Draft) -> np.ndarray:
    """Which nodes each node attends, bool [n, n]: ancestors and itself; extra nodes as they say."""
    nodes, candidates = len(draft.tokens), draft.candidates
    ancestors = [1]  # as bits: whole rows as integers are four times faster than rows of an array
    for node in range(1, candidates):
        ancestors.append(ancestors[draft.parents[node]] | 1 << node)
    width = (nodes + 7) // 8
    packed = b"".join(row.to_bytes(width, "little") for row in ancestors)
    rows = np.frombuffer(packed, dtype=np.uint8).reshape(candidates, width)
    mask = np.unpackbits(rows, axis=1, count=nodes, bitorder="little").view(bool)
    return mask if draft.extra_mask is None else np.concatenate([mask, draft.extra_mask])


def walk(draft: Draft, choices: list[int], emission: Emission) -> tuple[list[int], list[int]]:
    """Follow the target's tokens down the tree: (kept nodes, emitted tokens), equally many."""
    child_of = _chain_child(draft) if draft.is_chain else _tree_child(draft)
    path, emitted, node = [0], [], 0
    while True:
        token = emission.emit(choices[node])
        emitted.append(token)
        child = child_of(node, token)
        if child is None or emission.finished:
            return path, emitted
        path.append(child)
        node = child


def _chain_child(draft: Draft) -> Callable[[int, int], int | None]:
    """The child of a chain's node that carries a token."""

    def child(node: int, token: int) -> int | None:
        below = node + 1
        return below if below < draft.candidates and draft.tokens[below] == token else None

    return child


def _tree_child(draft: Draft) -> Callable[[int, int], int | None]:
    """The child of a tree's node that carries a token."""
    children = {}
    for node in range(1, draft.candidates):
        children[draft.parents[node], draft.tokens[node]] = node
    return lambda node, token: children.get((node, token))


def verify(
    model: Model,
    drafts: list[tuple[Sequence, Draft]],
    needs: Needs,
    meanwhile: Callable[[], None] = lambda: None,
) -> Verified:
    """Verify each sequence's draft.

    `meanwhile` is called once the forward is launched: on a GPU the host works while the device
    does. Raises ValueError for a draft that breaks the contract.
    """
    work = _laid_out(model, drafts, needs)
    wanted = Wanted(
        feature_layers=needs.feature_layers,
        target_topk=needs.target_topk,
        draw=_draw_of_all(work) if _forward_may_pick(work) else None,
        is_step=True,
    )
    output = model.forward([item.segment() for item in work], wanted)
    meanwhile()
    choices = _read(output, work, needs.target_topk)
    read_at = perf_counter()
    outs = []
    for item, chosen in zip(work, choices, strict=True):
        outs.append(_accept(model, item, chosen, output))
    return Verified(outs, read_at)


def _laid_out(model: Model, drafts: list[tuple[Sequence, Draft]], needs: Needs) -> list[Work]:
    work: list[Work] = []
    row = 0
    for sequence, draft in drafts:
        draft.validate(needs.max_nodes, model.vocab_size)
        rows = slice(row, row + len(draft.tokens))
        work.append(Work(sequence, draft, draft.depths(), rows))
        row = rows.stop
    return work


def _forward_may_pick(work: list[Work]) -> bool:
    """May the forward itself pick the tokens of all rows, at one temperature?"""
    temperatures = {item.sequence.request.temperature for item in work}
    return len(temperatures) == 1 and all(item.forward_may_pick for item in work)


def _draw_of_all(work: list[Work]) -> Draw | None:
    """How the forward draws the tokens of all rows; None where the argmax is asked for."""
    temperature = work[0].sequence.request.temperature
    if not temperature:
        return None
    keys: list[int] = []
    for item in work:
        keys += item.keys()
    return Draw(temperature, keys)


def _read(output: Output, work: list[Work], topk: int) -> list[Choices]:
    """The target's tokens after every node: one transfer to the host for all drafts."""
    if output.picked is None or not _forward_may_pick(work):
        return _read_logits(output, work, topk)
    picked = output.picked.to_host()
    return [_read_picked(picked.rows(item.rows), item, topk) for item in work]


def _read_picked(picked: HostPicked, item: Work, topk: int) -> Choices:
    """Where the forward has picked the tokens of a draft's rows."""
    candidates = item.draft.candidates
    tokens = picked.drawn if item.sequence.request.temperature else picked.argmax
    of_extra_nodes = picked.argmax[candidates:].tolist()
    chosen = tokens[:candidates].tolist() + of_extra_nodes
    return Choices.of(chosen, picked, candidates, topk)


def _read_logits(output: Output, work: list[Work], topk: int) -> list[Choices]:
    """Pick from the logits: several sequences, top-k or top-p, rejection sampling, eager runs."""
    logits = output.logits[: work[-1].rows.stop]
    if _are_drawn_alike(work):
        tokens = _drawn_alike(logits, work)
    else:
        tokens = torch.cat([_target_tokens(logits[item.rows], item) for item in work])
    picked = Picked.pack(logits, tokens, target_topk=topk).to_host()
    choices = []
    for item in work:
        rows = picked.rows(item.rows)
        choices.append(Choices.of(rows.drawn.tolist(), rows, item.draft.candidates, topk))
    return choices


def _are_drawn_alike(work: list[Work]) -> bool:
    """May the tokens of all rows be drawn at once?"""
    first = work[0].sequence.request
    if first.temperature == 0 or len(work) == 1:
        return False
    for item in work:
        if item.draft.probabilities is not None or not first.is_sampled_as(item.sequence.request):
            return False
    return True


def _drawn_alike(logits: torch.Tensor, work: list[Work]) -> torch.Tensor:
    """The target's tokens [R] after every node of all drafts; after extra nodes its argmax."""
    keys: list[int] = []
    extra_rows: list[int] = []
    for item in work:
        keys += item.keys()
        extra_rows += range(item.rows.start + item.draft.candidates, item.rows.stop)
    tokens = tokens_of_keys(logits, keys, work[0].sequence.request)
    if extra_rows:
        tokens[extra_rows] = logits[extra_rows].argmax(-1)
    return tokens


def _target_tokens(logits: torch.Tensor, item: Work) -> torch.Tensor:
    """The target's token [n] after every node of one draft; after extra nodes its argmax."""
    sequence, draft, candidates = item.sequence, item.draft, item.draft.candidates
    request, first = sequence.request, len(sequence.ids)
    if draft.probabilities is not None and request.temperature > 0:
        tokens = rejection_tokens(logits, draft, first, request, sequence.noise)
    else:
        depths = item.depths[:candidates]
        tokens = target_tokens(logits[:candidates], depths, first, request, sequence.noise)
    if candidates == len(draft.tokens):
        return tokens
    return torch.cat([tokens, logits[candidates:].argmax(-1)])


def _accept(model: Model, item: Work, choices: Choices, output: Output) -> StepOut:
    """Walk the tree, keep the accepted rows, and say what the step yielded."""
    sequence, draft = item.sequence, item.draft
    path, emitted = walk(draft, choices.tokens, sequence.emission)
    model.keep(sequence.slot, sequence.cached, path)
    sequence.cached += len(path)
    sequence.accept_lengths.append(len(emitted))
    sequence.draft_lengths.append(draft.candidates - 1)
    sequence.sources.append(draft.source)
    return StepOut(
        draft=draft,
        path=path,
        emitted=emitted,
        finished=sequence.finished,
        features=_kept_features(output, item, path),
        target_topk=choices.target_topk,
        target_logprobs=choices.target_logprobs,
        extra_argmax=choices.tokens[draft.candidates :],
    )


def _kept_features(output: Output, item: Work, path: list[int]) -> torch.Tensor | None:
    """The features at the kept nodes, as a copy: the next forward reuses their memory."""
    if output.features is None:
        return None
    features = output.features[item.rows]
    if path[-1] < len(path):  # a prefix of the rows
        return features[: len(path)].clone()
    return features[path]
