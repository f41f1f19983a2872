"""A bound on hybrids: at every step the best of several drafters' drafts is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluation.analysis.replays import Steps
from model.contract import Draft, Drafter
from model.engine.replay import Replay, Script
from model.engine.sequence import Emission
from model.engine.verify import walk


def combined(drafters: Sequence[Drafter], scripts: Sequence[Script], question: str) -> Steps:
    """The steps of one question's generations, one after another.

    Every drafter proposes at every step, the draft of which most is accepted is taken (of equals
    the first drafter's), and all learn from it.
    """
    total = Steps()
    for drafter in drafters:
        drafter.enter("question", question)
    for script in scripts:
        replayed = []
        for drafter in drafters:
            drafter.enter("request", question)
            replayed.append(Replay(drafter, script))
        while not replayed[0].finished:
            drafts = [replaying.propose() for replaying in replayed]
            best = max(drafts, key=lambda draft: _accepted(replayed[0], draft))
            for replaying in replayed:
                replaying.accept(best)
        for replaying in replayed:
            replaying.result()
        sequence = replayed[0].sequence
        total.emitted.update(sequence.accept_lengths)
        total.drafted.update(sequence.draft_lengths)
        context = len(script.request.prompt_ids)
        for emitted in sequence.accept_lengths:
            total.context += context
            context += emitted
    return total


def _accepted(replaying: Replay, draft: Draft) -> int:
    """Tokens a draft would emit here."""
    request = replaying.sequence.request
    left = request.max_new_tokens - len(replaying.sequence.ids)
    emission = Emission(replace(request, max_new_tokens=max(1, left)))
    return len(walk(draft, replaying.choices(draft), emission)[1])
