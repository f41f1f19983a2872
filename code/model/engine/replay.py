"""The generation loop over a recorded text: no target, the recorded tokens are its choices.

What a drafter that needs no model accepts on a text is a function of that text alone. The drafter,
what it is told, the walk and the rules that end a text are the engine's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from model.contract import NO_CAP, Draft, Drafter, Prefill, Request, StepOut
from model.engine.decode import context
from model.engine.sequence import Generation, Sequence, Times
from model.engine.verify import walk

TopkOfStep = Callable[[int, Draft, list[int]], tuple[np.ndarray, np.ndarray]]
"""(step, draft, kept nodes) -> the target's likeliest tokens and their log-probabilities after
every candidate, [candidates, K]; -1 for tokens that nobody recorded."""


@dataclass(frozen=True)
class Script:
    """A recorded generation: its request, its tokens, and what else of the target was recorded."""

    request: Request
    ids: list[int]
    topk: TopkOfStep | None = None


class Replay:
    """One generation under replay, a step at a time, so that several can take turns."""

    def __init__(self, drafter: Drafter, script: Script, max_nodes: int = NO_CAP) -> None:
        """Starts the drafter: the prompt is behind it and the first token emitted."""
        self.drafter = drafter
        self.sequence = Sequence(replace(script.request, forcing=None))
        self.seconds = 0.0
        """That the drafter took."""
        self._script = script
        self._cap = min(max_nodes, drafter.needs.max_nodes)
        self.sequence.cached = len(script.request.prompt_ids)
        self.sequence.emission.emit(script.ids[0])
        begun = perf_counter()
        drafter.start(self.sequence.request, Prefill(script.ids[0]))
        self.seconds += perf_counter() - begun

    @property
    def finished(self) -> bool:
        return self.sequence.finished

    def propose(self) -> Draft:
        """What the drafter proposes here."""
        begun = perf_counter()
        draft = self.drafter.propose(context(self.sequence, self.drafter, self._cap))
        self.seconds += perf_counter() - begun
        draft.validate(self._cap, NO_CAP)
        return draft

    def step(self) -> None:
        """Propose, walk, observe."""
        self.accept(self.propose())

    def accept(self, draft: Draft) -> None:
        """Walk a draft along the recorded text, and let the drafter learn."""
        sequence = self.sequence
        self.drafter.during_verify()  # beside the forward, on a GPU
        path, emitted = walk(draft, self.choices(draft), sequence.emission)
        sequence.cached += len(path)
        sequence.accept_lengths.append(len(emitted))
        sequence.draft_lengths.append(draft.candidates - 1)
        sequence.sources.append(draft.source)
        tokens = logprobs = None
        if self._script.topk and self.drafter.needs.target_topk:
            number = len(sequence.accept_lengths) - 1
            tokens, logprobs = self._script.topk(number, draft, path)
        out = StepOut(
            draft, path, emitted, sequence.finished, target_topk=tokens, target_logprobs=logprobs
        )
        begun = perf_counter()
        self.drafter.observe(out)
        self.seconds += perf_counter() - begun

    def choices(self, draft: Draft) -> list[int]:
        """The recorded token at the depth of every candidate; -1 past the end.

        Off the recorded path nobody knows the target's choice, and nobody asks: the walk never
        comes there.
        """
        ids, first = self._script.ids, len(self.sequence.ids)
        if draft.is_chain:
            chosen = ids[first : first + draft.candidates]
            return chosen + [-1] * (draft.candidates - len(chosen))
        left = len(ids) - first
        depths = draft.depths()[: draft.candidates]
        return [ids[first + depth] if depth < left else -1 for depth in depths]

    def result(self) -> Generation:
        """The generation, its trace as the engine's; of the times the drafter's alone.

        Raises ValueError where the text came out another than was recorded.
        """
        sequence = self.sequence
        self.drafter.finish(sequence.request, sequence.ids)
        if sequence.ids != self._script.ids:
            raise ValueError("the replayed text is not the recorded one")
        return Generation.of(sequence, Times(draft=self.seconds), latency=self.seconds)


def replay(drafter: Drafter, script: Script, max_nodes: int = NO_CAP) -> Generation:
    """Replay one recorded generation with one drafter.

    `max_nodes` caps every draft. Raises ValueError for a draft that breaks the contract.
    """
    replaying = Replay(drafter, script, max_nodes)
    while not replaying.finished:
        replaying.step()
    return replaying.result()
