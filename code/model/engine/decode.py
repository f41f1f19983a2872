"""The generation loop: prefill, then propose, verify, accept until a stop id or the budget ends it.

Timed from outside the phases: prefill, draft (propose and observe), verify (forward up to reading
the tokens), accept (walk and cache), other (the rest).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

import torch

from model.contract import NO_CAP, Context, Drafter, Prefill, Request, StepOut
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


def prefill(model: Model, sequence: Sequence, drafter: Drafter) -> Prefill:
    """Run the prompt through the target in chunks and emit the first token."""
    ids = sequence.request.prompt_ids
    wanted = Wanted(last_only=True, feature_layers=drafter.needs.feature_layers)
    features: list[torch.Tensor] = []
    for start in range(0, len(ids), PREFILL_CHUNK):
        segment = Segment.causal(sequence.slot, start, ids[start : start + PREFILL_CHUNK])
        output = model.forward([segment], wanted)
        if output.features is not None:
            features.append(output.features)
    sequence.cached = len(ids)
    (token,) = target_tokens(output.logits, [0], 0, sequence.request, sequence.noise).tolist()
    first = sequence.emission.emit(token)
    return Prefill(first, torch.cat(features) if features else None)


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
    check(model, request)
    cap = min(max_nodes, drafter.needs.max_nodes)
    topk = max(drafter.needs.target_topk, record.target_topk if record else 0)
    needs = dataclasses.replace(drafter.needs, max_nodes=cap, target_topk=topk)
    model.reserve(len(request.prompt_ids) + request.max_new_tokens + cap)
    sequence, times = Sequence(request), Times()
    begun = perf_counter()
    first = prefill(model, sequence, drafter)
    prefilled = perf_counter()
    drafter.start(request, first)
    times.prefill = prefilled - begun
    times.draft = perf_counter() - prefilled
    while not sequence.finished:
        t0 = perf_counter()
        room = min(model.room, model.max_positions) - sequence.cached
        draft = drafter.propose(context(sequence, drafter, min(cap, room)))
        t1 = perf_counter()
        verified = verify(model, [(sequence, draft)], needs, drafter.during_verify)
        t2 = perf_counter()
        out = verified.outs[0]
        drafter.observe(out)
        t3 = perf_counter()
        times.draft += (t1 - t0) + (t3 - t2)
        times.verify += verified.read_at - t1
        times.accept += t2 - verified.read_at
        if record:
            record.add(out)
        if on_step:
            on_step(sequence)
    drafter.finish(request, sequence.ids)
    times.wall = perf_counter() - begun
    return Generation.of(sequence, times)
