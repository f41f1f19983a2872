"""The generation loop: prefill, then propose, verify, accept until a stop id, the token budget or the context ends it.

Timed from outside the phases: prefill, draft (propose and observe), verify (forward up to reading the tokens),
accept (walk and cache), other (the rest).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch

from model.draft import Context, Drafter, Prefill, Request
from model.engine.attention import Segment
from model.engine.sampling import PositionNoise, target_tokens
from model.engine.target import Target
from model.engine.verify import Emission, verify
from model.errors import UserError

PREFILL_CHUNK = 512


@dataclass
class Sequence:
    """One generation under way: its slot, cached length, emission state and trace."""

    request: Request
    slot: int = 0
    cached: int = 0
    emission: Emission = field(init=False)
    noise: PositionNoise = field(init=False)
    accept_lengths: list[int] = field(default_factory=list)
    draft_lengths: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.emission = Emission(self.request)
        self.noise = PositionNoise.of(self.request)

    @property
    def ids(self) -> list[int]:
        return self.emission.ids


@dataclass
class Times:
    """Seconds a generation spent in each phase."""

    prefill: float = 0.0
    draft: float = 0.0
    verify: float = 0.0
    accept: float = 0.0
    wall: float = 0.0

    @property
    def other(self) -> float:
        return max(0.0, self.wall - self.prefill - self.draft - self.verify - self.accept)


@dataclass(frozen=True)
class Generation:
    """A finished generation: what was emitted, why it ended, and its trace."""

    output_ids: list[int]
    finish_reason: str
    forced_tokens: int
    accept_lengths: list[int]
    draft_lengths: list[int]
    sources: list[str]
    times: Times


def capacity(request: Request, max_nodes: int) -> int:
    """Cache rows a request may touch."""
    return len(request.prompt_ids) + request.max_new_tokens + max_nodes


def check(target: Target, request: Request) -> None:
    """Refuse a request the target cannot run: empty, or longer than its context."""
    if not request.prompt_ids:
        raise UserError("the prompt is empty")
    need = len(request.prompt_ids) + request.max_new_tokens
    if need > target.max_positions:
        raise UserError(
            f"question {request.question_id}: {len(request.prompt_ids)} prompt tokens + {request.max_new_tokens} new tokens"
            f" exceed the model's context of {target.max_positions}; lower --max-new-tokens")


def prefill(target: Target, sequence: Sequence, drafter: Drafter) -> Prefill:
    """Run the prompt through the target in chunks and emit the first token."""
    ids, features = sequence.request.prompt_ids, []
    for start in range(0, len(ids), PREFILL_CHUNK):
        chunk = ids[start:start + PREFILL_CHUNK]
        segment = Segment(sequence.slot, start, chunk, range(start, start + len(chunk)))
        output = target.forward([segment], last_only=True, feature_layers=drafter.needs.feature_layers)
        features.append(output.features)
    sequence.cached = len(ids)
    own = target_tokens(output.logits, [0], 0, sequence.request, sequence.noise)
    token = sequence.emission.emit(int(own[0]))
    return Prefill(token, torch.cat(features) if drafter.needs.feature_layers else None)


def context(target: Target, sequence: Sequence, drafter: Drafter, max_nodes: int) -> Context:
    """What the drafter may know before this step."""
    room = min(target.room, target.max_positions) - sequence.cached
    emitted = len(sequence.ids)
    return Context(root=sequence.ids[-1], cached=sequence.cached, emitted=emitted,
                   remaining=sequence.request.max_new_tokens - emitted,
                   max_nodes=max(1, min(max_nodes, room, drafter.needs.max_nodes)),
                   request=sequence.request, noise=sequence.noise)


def generate(target: Target, drafter: Drafter, request: Request, max_nodes: int = 1 << 20,
             on_step: Callable[[Sequence], None] | None = None) -> Generation:
    """Generate one text with one drafter; `max_nodes` caps every draft, whatever the drafter would like."""
    check(target, request)
    nodes = min(max_nodes, drafter.needs.max_nodes)
    target.reserve(capacity(request, nodes))
    needs = dataclasses.replace(drafter.needs, max_nodes=nodes)  # the cap holds whatever a drafter proposes
    sequence, times, begun = Sequence(request), Times(), perf_counter()
    first = prefill(target, sequence, drafter)
    times.prefill = perf_counter() - begun
    clock = perf_counter()
    drafter.start(request, first)
    times.draft += perf_counter() - clock
    while not sequence.emission.finished:
        t0 = perf_counter()
        draft = drafter.propose(context(target, sequence, drafter, nodes))
        t1 = perf_counter()
        (out,), verified = verify(target, [(sequence, draft)], needs, drafter.settle)
        t2 = perf_counter()
        drafter.observe(out)
        times.draft += t1 - t0 + perf_counter() - t2
        times.verify += verified - t1
        times.accept += t2 - verified
        if on_step:
            on_step(sequence)
    drafter.finish(request, sequence.ids)
    times.wall = perf_counter() - begun
    emission = sequence.emission
    return Generation(list(emission.ids), emission.reason, emission.forced, sequence.accept_lengths,
                      sequence.draft_lengths, sequence.sources, times)
