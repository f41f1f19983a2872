"""The generation loop: prefill, then propose, verify, accept until a stop id or the budget ends it.

One text, or several together: one forward a step verifies the drafts of all that are under way. A
text is the same alone and together, for its noise belongs to its positions.

Timed from outside the phases: prefill, draft (propose and observe), verify (forward up to reading
the tokens), accept (walk and cache), other (the rest).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import torch

from model.contract import NO_CAP, Context, Drafter, Needs, Prefill, Request, StepOut
from model.engine.forward import Segment, Wanted
from model.engine.model import Model
from model.engine.sampling import target_tokens
from model.engine.sequence import Generation, Sequence, Times
from model.engine.verify import verify
from model.errors import UserError

PREFILL_CHUNK = 512


class Recording(Protocol):
    """Who wants to keep what the target says at every step."""

    @property
    def target_topk(self) -> int:
        """How many of its likeliest tokens."""
        ...

    def add(self, out: StepOut) -> None:
        """Of one step."""
        ...


def check(model: Model, request: Request) -> None:
    """Raise UserError for a request the model cannot run: empty, or longer than its context."""
    prompt_tokens = len(request.prompt_ids)
    if not prompt_tokens:
        raise UserError("the prompt is empty")
    if prompt_tokens + request.max_new_tokens > model.max_positions:
        raise UserError(
            f"question {request.question_id}: {prompt_tokens} prompt tokens"
            f" + {request.max_new_tokens} new tokens exceed the model's context of"
            f" {model.max_positions}; lower --max-new-tokens"
        )


@dataclass
class Making:
    """One generation of a group: its drafter, its sequence, who records it, when it ended."""

    drafter: Drafter
    sequence: Sequence
    record: Recording | None = None
    latency: float = 0.0


def prefill(model: Model, makings: list[Making]) -> list[Prefill]:
    """Run every prompt through the target and emit the first tokens.

    Equal prompts are computed once, and their cache rows copied.
    """
    feature_layers = makings[0].drafter.needs.feature_layers
    computed: dict[tuple[int, ...], tuple[int, torch.Tensor, torch.Tensor | None]] = {}
    prefills = []
    for making in makings:
        sequence = making.sequence
        ids = sequence.request.prompt_ids
        prompt = tuple(ids)
        if prompt in computed:
            model.cache.fork(computed[prompt][0], sequence.slot, len(ids))
        else:
            logits, features = _computed(model, sequence.slot, ids, feature_layers)
            computed[prompt] = (sequence.slot, logits, features)
        _, logits, features = computed[prompt]
        sequence.cached = len(ids)
        (token,) = target_tokens(logits, [0], 0, sequence.request, sequence.noise).tolist()
        prefills.append(Prefill(sequence.emission.emit(token), features))
    return prefills


def _computed(
    model: Model, slot: int, ids: list[int], feature_layers: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A prompt's forward in chunks: (last logits [1, V], features [P, A*H] where asked for)."""
    wanted = Wanted(last_only=True, feature_layers=feature_layers)
    features: list[torch.Tensor] = []
    for start in range(0, len(ids), PREFILL_CHUNK):
        segment = Segment.causal(slot, start, ids[start : start + PREFILL_CHUNK])
        output = model.forward([segment], wanted)
        if output.features is not None:
            features.append(output.features)
    # the output is valid until the next forward only
    return output.logits.clone(), torch.cat(features) if features else None


def context(sequence: Sequence, drafter: Drafter, max_nodes: int) -> Context:
    """What the drafter may know before this step."""
    emitted = len(sequence.ids)
    return Context(
        root=sequence.ids[-1],
        cached=sequence.cached,
        emitted=emitted,
        remaining=sequence.request.max_new_tokens - emitted,
        max_nodes=max(1, min(max_nodes, drafter.needs.max_nodes)),
        request=sequence.request,
        noise=sequence.noise,
    )


def generate(
    model: Model,
    drafter: Drafter,
    request: Request,
    max_nodes: int = NO_CAP,
    on_step: Callable[[Sequence], None] | None = None,
    record: Recording | None = None,
) -> Generation:
    """Generate one text with one drafter.

    `max_nodes` caps every draft, whatever the drafter would like; `on_step` is called after every
    step; `record` is given what every step yields. Raises UserError for a request that does not
    fit, ValueError for a draft that breaks the
    contract.
    """
    makings = [Making(drafter, Sequence(request), record)]
    return _generate(model, makings, max_nodes, NO_CAP, on_step)[0]


def generate_together(
    model: Model,
    drafter: Drafter,
    requests: list[Request],
    max_nodes: int = NO_CAP,
    max_rows: int = NO_CAP,
    on_step: Callable[[Sequence], None] | None = None,
    records: list[Recording | None] | None = None,
) -> list[Generation]:
    """Generate several texts, one forward a step for all of them; the tokens are those of
    `generate`.

    Every text has a session of the drafter. `max_rows` caps the nodes of a step, which the texts
    under way share equally. `records`, where given, has an entry a request. Raises as `generate`.
    """
    makings = []
    for slot, request in enumerate(requests):
        record = records[slot] if records else None
        makings.append(Making(drafter.session(slot), Sequence(request, slot), record))
    return _generate(model, makings, max_nodes, max_rows, on_step)


def _generate(
    model: Model,
    makings: list[Making],
    max_nodes: int,
    max_rows: int,
    on_step: Callable[[Sequence], None] | None,
) -> list[Generation]:
    for making in makings:
        check(model, making.sequence.request)
    needs = _needs(makings, max_nodes)
    _reserve(model, makings, needs.max_nodes)
    times = Times()
    begun = perf_counter()
    prefills = prefill(model, makings)
    prefilled = perf_counter()
    for making, first in zip(makings, prefills, strict=True):
        making.drafter.start(making.sequence.request, first)
    times.prefill = prefilled - begun
    times.draft = perf_counter() - prefilled
    under_way = _left(makings, begun)
    while under_way:
        cap = min(needs.max_nodes, max(1, max_rows // len(under_way)))
        _step(model, under_way, needs, cap, times)
        if on_step:
            for making in under_way:
                on_step(making.sequence)
        under_way = _left(under_way, begun)
    times.wall = perf_counter() - begun
    count = len(makings)
    share = times.share(count)
    return [Generation.of(m.sequence, share, m.latency, count) for m in makings]


def _needs(makings: list[Making], max_nodes: int) -> Needs:
    """Of every step: the drafters' needs, capped, and what the recordings want."""
    needs = makings[0].drafter.needs
    widths = [making.record.target_topk for making in makings if making.record]
    topk = max([needs.target_topk, *widths])
    return dataclasses.replace(needs, max_nodes=min(max_nodes, needs.max_nodes), target_topk=topk)


def _reserve(model: Model, makings: list[Making], nodes: int) -> None:
    """Room for every text in target and drafter, before any of them begins."""
    lengths = []
    for making in makings:
        request = making.sequence.request
        lengths.append(len(request.prompt_ids) + request.max_new_tokens)
    model.reserve(max(lengths) + nodes, len(makings))
    if len(makings) > 1:
        makings[0].drafter.reserve(max(lengths), len(makings))


def _step(
    model: Model, under_way: list[Making], needs: Needs, max_nodes: int, times: Times
) -> None:
    """One step of every generation under way: propose, one forward, walk, learn."""

    def meanwhile() -> None:
        for making in under_way:
            making.drafter.during_verify()

    begun = perf_counter()
    longest = min(model.room, model.max_positions)
    drafts = []
    for making in under_way:
        sequence = making.sequence
        cap = min(max_nodes, longest - sequence.cached)
        drafts.append((sequence, making.drafter.propose(context(sequence, making.drafter, cap))))
    proposed = perf_counter()
    verified = verify(model, drafts, needs, meanwhile)
    accepted = perf_counter()
    for making, out in zip(under_way, verified.outs, strict=True):
        making.drafter.observe(out)
    times.draft += (proposed - begun) + (perf_counter() - accepted)
    times.verify += verified.read_at - proposed
    times.accept += accepted - verified.read_at
    for making, out in zip(under_way, verified.outs, strict=True):
        if making.record:
            making.record.add(out)


def _left(makings: list[Making], begun: float) -> list[Making]:
    """Those that are not at their end; the others are finished."""
    left = []
    for making in makings:
        if not making.sequence.finished:
            left.append(making)
            continue
        making.drafter.finish(making.sequence.request, making.sequence.ids)
        making.latency = perf_counter() - begun
    return left
