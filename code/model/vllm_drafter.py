"""Our drafters inside vLLM, as its `custom_class` (vLLM 0.32, experimental there).

    PYTHONPATH=code SPECTTS_DRAFTER=sam python -m vllm.entrypoints.openai.api_server --model ... \\
        --speculative-config '{"method": "custom_class", "model": "model.vllm_drafter.Drafters", \\
                               "num_speculative_tokens": 5}'

vLLM hands over the tokens of every request under way, by rows that move from step to step and
without names. A request is known by its text: the one whose text so far is the row's without its
new tokens. Chains only: of a tree the path of first children is proposed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model import methods
from model.contract import Context, Draft, Drafter, Prefill, Request, StepOut
from model.engine.noise import PositionNoise
from model.errors import UserError

METHOD_VARIABLE = "SPECTTS_DRAFTER"
MOST_UNSEEN = 20
"""Steps after which a request that is in no row counts as over; one that comes back later begins
anew."""


@dataclass
class UnderWay:
    """One request, its drafter's session, and what was proposed for it last."""

    drafter: Drafter
    request: Request
    ids: np.ndarray
    proposed: Draft | None = None
    emitted: list[int] = field(default_factory=list)
    last_step: int = 0


class Drafters:
    """What vLLM makes one of, and asks for drafts."""

    def __init__(self, vllm_config: Any) -> None:
        self._tokens: int = vllm_config.speculative_config.num_speculative_tokens
        self._longest: int = vllm_config.model_config.max_model_len
        self._drafter = _drafter(os.environ.get(METHOD_VARIABLE, ""))
        self._drafter.enter("run", "vllm")
        self._drafter.enter("question", "vllm")
        self._under_way: list[UnderWay] = []
        self._step = 0

    def load_model(self, *args: object, **kwargs: object) -> None:
        """Nothing: none of these drafters has a model."""

    def propose(
        self,
        sampled_token_ids: Sequence[Sequence[int]],
        num_tokens_no_spec: np.ndarray,
        token_ids_cpu: np.ndarray,
        slot_mappings: object = None,
    ) -> list[list[int]]:
        """A chain for every row; none where a row's prompt is not done.

        `token_ids_cpu` [rows, longest] holds each row's whole text, `num_tokens_no_spec` [rows] its
        length, the tokens of this step, `sampled_token_ids`, among them.
        """
        self._step += 1
        free = list(self._under_way)
        proposals: list[list[int]] = []
        for row, sampled in enumerate(sampled_token_ids):
            length = int(num_tokens_no_spec[row])
            room = min(self._tokens, self._longest - length)
            if not len(sampled) or room < 1:
                proposals.append([])
                continue
            ids = token_ids_cpu[row, :length].copy()
            found = self._found(ids, len(sampled), free)
            proposals.append(self._draft(found, room))
        self._forget_finished()
        return proposals

    def _found(self, ids: np.ndarray, new: int, free: list[UnderWay]) -> UnderWay:
        """The request of a row, brought up to date; a new one where none fits."""
        before = ids[: len(ids) - new]
        known = next((r for r in free if np.array_equal(r.ids, before)), None)
        if known is None:
            known = self._begun(ids, new)
        else:
            free.remove(known)
            _observe(known, ids)
        known.last_step = self._step
        return known

    def _begun(self, ids: np.ndarray, new: int) -> UnderWay:
        prompt, first = ids[: len(ids) - new].tolist(), int(ids[-new])
        request = Request(prompt, max(1, self._longest - len(prompt)), question_id="vllm")
        if not self._under_way:
            self._drafter.enter("request", "vllm")
        session = self._drafter.session()
        session.start(request, Prefill(first, None))
        begun = UnderWay(session, request, ids[: len(ids) - new + 1], emitted=[first])
        if new > 1:
            _observe(begun, ids)
        self._under_way.append(begun)
        return begun

    def _draft(self, under_way: UnderWay, room: int) -> list[int]:
        request, emitted = under_way.request, len(under_way.emitted)
        context = Context(
            root=int(under_way.ids[-1]),
            cached=len(under_way.ids) - 1,
            emitted=emitted,
            remaining=max(1, request.max_new_tokens - emitted),
            max_nodes=min(room + 1, under_way.drafter.needs.max_nodes),
            request=request,
            noise=PositionNoise.of(request),
        )
        draft = under_way.drafter.propose(context)
        path = first_children(draft)
        under_way.proposed = Draft.chain(context.root, path[:room], draft.source)
        return path[:room]

    def _forget_finished(self) -> None:
        kept = []
        for request in self._under_way:
            if self._step - request.last_step < MOST_UNSEEN:
                kept.append(request)
            else:
                request.drafter.finish(request.request, request.emitted)
        self._under_way = kept


def _observe(under_way: UnderWay, ids: np.ndarray) -> None:
    """Tell a request's drafter what the target emitted since."""
    emitted = ids[len(under_way.ids) :].tolist()
    draft = under_way.proposed or Draft.only_root(int(under_way.ids[-1]))
    accepted = 0
    for drafted, token in zip(draft.tokens[1:], emitted[:-1]):
        if drafted != token:
            break
        accepted += 1
    path = list(range(accepted + 1))
    # tokens that no draft of ours led to came by steps of their own: they are told all the same
    under_way.drafter.observe(StepOut(draft, path, emitted, finished=False))
    under_way.ids, under_way.proposed = ids, None
    under_way.emitted += emitted


def first_children(draft: Draft) -> list[int]:
    """The tokens of the path that follows every node's first child."""
    tokens, node = [], 0
    for candidate in range(1, draft.candidates):
        if draft.parents[candidate] == node:
            tokens.append(draft.tokens[candidate])
            node = candidate
    return tokens


def _drafter(name: str) -> Drafter:
    """A method that drafts from text alone; raises UserError for any other."""
    if not name:
        raise UserError(
            f"name a method in the environment variable {METHOD_VARIABLE}: sam, pld, ..."
        )
    why = methods.why_no_replay(name) or methods.what_replay_needs(name)
    if why:
        raise UserError(f"{name} cannot draft inside vLLM: {why}")
    (config,) = methods.configure(name)
    # nothing of the target is read: what asks for it is refused above
    return methods.build(name, None, (config,))  # type: ignore[arg-type]
