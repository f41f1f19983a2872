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
from model.drafting import drafted
from model.engine.forward import Segment, Wanted
from model.engine.model import Model
from model.engine.rows import likeliest, nodes_for_each
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
class Member:
    """One generation of a group: its drafter, its sequence, who records it, when it ended."""

    drafter: Drafter
    sequence: Sequence
    recording: Recording | None = None
    latency: float = 0.0


@dataclass(frozen=True)
class Prompt:
    """A prompt that was run: the slot of its cache rows, and what the forward yielded."""

    slot: int
    logits: torch.Tensor
    """After its last token, [1, V]."""
    features: torch.Tensor | None
    """[P, A*H] where asked for."""


def prefill(model: Model, group: list[Member]) -> list[Prefill]:
    """Run every prompt through the target and emit the first tokens.

    Equal prompts are computed once, and their cache rows copied.
    """
    layers = group[0].drafter.needs.feature_layers
    prompts: dict[tuple[int, ...], Prompt] = {}
    prefills = []
    for member in group:
        sequence = member.sequence
        ids = tuple(sequence.request.prompt_ids)
        if ids in prompts:
            model.cache.fork(prompts[ids].slot, sequence.slot, len(ids))
        else:
            prompts[ids] = _run_prompt(model, sequence, layers)
        prompt = prompts[ids]
        sequence.cached = len(ids)
        (token,) = target_tokens(prompt.logits, [0], 0, sequence.request, sequence.noise).tolist()
        prefills.append(Prefill(sequence.emission.emit(token), prompt.features))
    return prefills


def _run_prompt(model: Model, sequence: Sequence, feature_layers: tuple[int, ...]) -> Prompt:
    """A prompt's forward, in chunks."""
    ids, slot = sequence.request.prompt_ids, sequence.slot
    wanted = Wanted(last_only=True, feature_layers=feature_layers)
    features: list[torch.Tensor] = []
    for start in range(0, len(ids), PREFILL_CHUNK):
        segment = Segment.causal(slot, start, ids[start : start + PREFILL_CHUNK])
        output = model.forward([segment], wanted)
        if output.features is not None:
            features.append(output.features)
    # a copy: the output is valid until the next forward only
    return Prompt(slot, output.logits.clone(), torch.cat(features) if features else None)


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
    fit, ValueError for a draft that breaks the contract.
    """
    check(model, request)
    group = [Member(drafter, Sequence(request), record)]
    return _generate(model, group, max_nodes, NO_CAP, on_step)[0]


def generate_together(
    model: Model,
    drafter: Drafter,
    requests: list[Request],
    max_nodes: int = NO_CAP,
    max_rows: int = NO_CAP,
    on_step: Callable[[Sequence], None] | None = None,
    recordings: list[Recording | None] | None = None,
    is_enough: Callable[[list[Sequence]], bool] | None = None,
) -> list[Generation]:
    """Generate several texts, one forward a step for all of them; the tokens are those of
    `generate`.

    Every text has a session of the drafter. `max_rows` caps the nodes of a step, which the texts
    under way share: equally, or by the chances of their nodes (`rows.py`). `recordings`, where
    given, has an entry a request. `is_enough` is asked whenever a text ends, with all of them, and
    calls the others off. Raises as `generate`.
    """
    for request in requests:
        check(model, request)
    # before there are sessions: they share what is allocated here
    drafter.reserve(_longest(requests), len(requests))
    group = []
    for slot, request in enumerate(requests):
        recording = recordings[slot] if recordings else None
        group.append(Member(drafter.session(slot), Sequence(request, slot), recording))
    return _generate(model, group, max_nodes, max_rows, on_step, is_enough)


def _generate(
    model: Model,
    group: list[Member],
    max_nodes: int,
    max_rows: int,
    on_step: Callable[[Sequence], None] | None,
    is_enough: Callable[[list[Sequence]], bool] | None = None,
) -> list[Generation]:
    needs = _needs(group, max_nodes)
    longest = _longest([member.sequence.request for member in group])
    model.reserve(longest + needs.max_nodes, len(group))
    times = Times()
    begun = perf_counter()
    prefills = prefill(model, group)
    prefilled = perf_counter()
    for member, first in zip(group, prefills, strict=True):
        member.drafter.start(member.sequence.request, first)
    times.prefill = prefilled - begun
    times.draft = perf_counter() - prefilled
    under_way = _without_finished(group, begun)
    sequences = [member.sequence for member in group]
    while under_way:
        _step(model, under_way, needs, max_rows, times)
        if on_step:
            for member in under_way:
                on_step(member.sequence)
        left = _without_finished(under_way, begun)
        if is_enough and len(left) < len(under_way) and is_enough(sequences):
            left = _call_off(left, begun)
        under_way = left
    times.wall = perf_counter() - begun
    share = times.share(len(group))
    return [Generation.of(m.sequence, share, m.latency, len(group)) for m in group]


def _needs(group: list[Member], max_nodes: int) -> Needs:
    """Of every step: the drafters' needs, capped, and what the recordings want."""
    needs = group[0].drafter.needs
    widths = [member.recording.target_topk for member in group if member.recording]
    topk = max([needs.target_topk, *widths])
    return dataclasses.replace(needs, max_nodes=min(max_nodes, needs.max_nodes), target_topk=topk)


def _longest(requests: list[Request]) -> int:
    """Tokens of the longest text, prompt and budget."""
    return max(len(request.prompt_ids) + request.max_new_tokens for request in requests)


def _step(model: Model, under_way: list[Member], needs: Needs, max_rows: int, times: Times) -> None:
    """One step of every generation under way: propose, one forward, walk, learn."""

    def meanwhile() -> None:
        for member in under_way:
            member.drafter.during_verify()

    begun = perf_counter()
    room = min(model.room, model.max_positions)
    max_rows = min(max_rows, model.backend.most_rows)
    max_nodes = nodes_for_each(needs, max_rows, len(under_way))
    draftings = []
    for member in under_way:
        cap = min(max_nodes, room - member.sequence.cached)
        known = context(member.sequence, member.drafter, cap)
        draftings.append(member.drafter.drafting(known))
    proposals = drafted(draftings)
    if needs.gives_chances:
        proposals = likeliest(proposals, max_rows)
    sequences = [member.sequence for member in under_way]
    drafts = list(zip(sequences, proposals, strict=True))
    proposed = perf_counter()
    verified = verify(model, drafts, needs, meanwhile)
    accepted = perf_counter()
    for member, out in zip(under_way, verified.outs, strict=True):
        member.drafter.observe(out)
    times.draft += (proposed - begun) + (perf_counter() - accepted)
    times.verify += verified.read_at - proposed
    times.accept += accepted - verified.read_at
    for member, out in zip(under_way, verified.outs, strict=True):
        if member.recording:
            member.recording.add(out)


def _call_off(group: list[Member], begun: float) -> list[Member]:
    """End all of them where they are."""
    for member in group:
        member.sequence.emission.call_off()
    return _without_finished(group, begun)


def _without_finished(group: list[Member], begun: float) -> list[Member]:
    """Those still under way. Those at their end are finished, and leave."""
    under_way = []
    for member in group:
        sequence = member.sequence
        if not sequence.finished:
            under_way.append(member)
            continue
        member.drafter.finish(sequence.request, sequence.ids)
        member.latency = perf_counter() - begun
    return under_way
