"""What of a generation's steps is kept for its record, beside its tokens: the target's likeliest
tokens (`--record-topk`), the drafted nodes (`--record-drafts`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from evaluation.records.drafts import DraftedNodes, packed_drafts
from evaluation.running.spec import RunSpec
from evaluation.running.topk import TopkRecorder
from model.contract import Drafter, StepOut


@dataclass(frozen=True)
class Kept:
    """Packed for a record; None where it was not asked for."""

    target_topk: str | None
    drafts: str | None


@dataclass
class Keeper:
    """Collects one generation's."""

    topk: TopkRecorder | None
    keeps_drafts: bool
    _drafts: list[DraftedNodes] = field(default_factory=list)

    @classmethod
    def of(cls, spec: RunSpec, drafter: Drafter) -> Keeper | None:
        """None where nothing is to be kept."""
        if not spec.record_topk and not spec.record_drafts:
            return None
        return cls(TopkRecorder.of(spec.record_topk, drafter), spec.record_drafts)

    @property
    def target_topk(self) -> int:
        """How many of the target's likeliest tokens are wanted of every step."""
        return self.topk.target_topk if self.topk else 0

    def add(self, out: StepOut) -> None:
        """One step."""
        if self.topk:
            self.topk.add(out)
        if self.keeps_drafts:
            draft = out.draft
            nodes = slice(1, draft.candidates)
            tokens = tuple(map(int, draft.tokens[nodes]))
            self._drafts.append(DraftedNodes(tokens, tuple(map(int, draft.parents[nodes]))))

    def kept(self) -> Kept:
        """All of it."""
        topk = self.topk.packed() if self.topk else None
        return Kept(topk, packed_drafts(self._drafts) if self.keeps_drafts else None)
