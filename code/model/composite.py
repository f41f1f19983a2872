"""The base of composites: a drafter around another one, which sees every step and every scope."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from model.contract import Context, Draft, Drafter, Prefill, Request, Scope, StepOut
from model.drafting import Drafting, alone

Self = TypeVar("Self", bound="Composite")


class Composite(Drafter):
    """Hands everything on to `inner`; what wraps it adds its own before or after."""

    def __init__(self, inner: Drafter, max_nodes: int) -> None:
        self.inner = inner
        most = max(inner.needs.max_nodes, max_nodes)
        # what wraps it may draft without chances
        self.needs = dataclasses.replace(inner.needs, max_nodes=most, gives_chances=False)
        self.scope: Scope = "question"

    def enter(self, scope: Scope, key: str) -> None:
        super().enter(scope, key)
        self.inner.enter(scope, key)

    def remember(self, scope: Scope) -> None:
        self.scope = scope
        self.inner.remember(scope)

    def session(self: Self, slot: int = 0) -> Self:
        session = super().session(slot)
        session.inner = self.inner.session(slot)
        return session

    def reserve(self, positions: int, sessions: int = 1) -> None:
        self.inner.reserve(positions, sessions)

    def know_costs(self, costs: Mapping[int, float]) -> None:
        self.inner.know_costs(costs)

    def start(self, request: Request, prefill: Prefill) -> None:
        self.inner.start(request, prefill)

    def drafting_of_inner(self, context: Context) -> Drafting[Draft]:
        """The inner drafter's draft, within its own budget."""
        room = min(context.max_nodes, self.inner.needs.max_nodes)
        return self.inner.drafting(dataclasses.replace(context, max_nodes=room))

    def drafting(self, context: Context) -> Drafting[Draft]:
        return self.drafting_of_inner(context)

    def propose(self, context: Context) -> Draft:
        return alone(self.drafting(context))

    def observe(self, out: StepOut) -> None:
        self.inner.observe(out)

    def during_verify(self) -> None:
        self.inner.during_verify()

    def finish(self, request: Request, output_ids: list[int]) -> None:
        self.inner.finish(request, output_ids)
