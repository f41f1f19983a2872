"""Keeping the target's likeliest tokens of a generation for its record (`--record-topk`)."""

from __future__ import annotations

import numpy as np

from evaluation.records.topk import CANDIDATES, KEPT, Topk
from model.contract import Drafter, StepOut


class TopkRecorder:
    """Collects the rows of every step of one generation."""

    def __init__(self, target_topk: int, of: str) -> None:
        self.target_topk = target_topk
        self._of = of
        self._ids: list[np.ndarray] = [np.zeros((0, target_topk), dtype=np.int32)]
        self._logprobs: list[np.ndarray] = [np.zeros((0, target_topk), dtype=np.float16)]

    @classmethod
    def of(cls, target_topk: int, drafter: Drafter) -> TopkRecorder | None:
        """None where nothing is to be kept.

        A drafter that learns from all verified nodes can be replayed from all of them only.
        """
        if not target_topk:
            return None
        return cls(target_topk, CANDIDATES if drafter.needs.learns_from_rejected else KEPT)

    def add(self, out: StepOut) -> None:
        """The rows of one step."""
        assert out.target_topk is not None and out.target_logprobs is not None
        rows = slice(None) if self._of == CANDIDATES else out.path
        k = self.target_topk
        self._ids.append(out.target_topk[rows, :k].astype(np.int32))
        self._logprobs.append(out.target_logprobs[rows, :k].astype(np.float16))

    def packed(self) -> str:
        return Topk(self._of, np.concatenate(self._ids), np.concatenate(self._logprobs)).packed()
