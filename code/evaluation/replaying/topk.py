"""The target's likeliest tokens of a record, as the steps of a replay ask for them."""

from __future__ import annotations

import numpy as np

from evaluation.records.topk import CANDIDATES, Topk
from model.contract import NO_CAP, Draft
from model.engine.replay import TopkOfStep
from model.errors import UserError


def topk_of_steps(text: str, where: str, width: int, vocab_size: int = NO_CAP) -> TopkOfStep:
    """Rows of a record's `target_topk` by step; UserError where they are damaged or too narrow."""
    try:
        topk = Topk.unpacked(text)
    except ValueError as error:
        raise UserError(f"{where}: target_topk is damaged ({error})") from None
    if topk.ids.max(initial=0) >= vocab_size or topk.ids.min(initial=0) < 0:
        raise UserError(f"{where}: target_topk holds tokens outside 0..{vocab_size - 1}")
    if topk.ids.shape[1] < width:
        raise UserError(
            f"{where}: {topk.ids.shape[1]} likeliest tokens are recorded, the method learns from"
            f" {width}; run with --record-topk {width}"
        )
    return _Candidates(topk, where) if topk.of == CANDIDATES else _Kept(topk, where)


def is_whole(text: str | None) -> bool:
    """Are the rows those of every verified node?"""
    return text is not None and text.startswith(CANDIDATES)


class _Candidates:
    """Every verified node is recorded: exact, as long as the drafts are those of the run."""

    def __init__(self, topk: Topk, where: str) -> None:
        self._topk, self._where = topk, where
        self._row = 0

    def __call__(self, step: int, draft: Draft, path: list[int]) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(self._row, self._row + draft.candidates)
        self._row = rows.stop
        if rows.stop > len(self._topk.ids):
            raise UserError(
                f"{self._where}: the likeliest tokens are recorded for other drafts than these;"
                " replay with the options of the run"
            )
        return self._topk.ids[rows], self._topk.logprobs[rows].astype(np.float32)


class _Kept:
    """Only after emitted tokens: what stands at rejected nodes nobody knows."""

    def __init__(self, topk: Topk, where: str) -> None:
        self._topk, self._where = topk, where
        self._row = 0

    def __call__(self, step: int, draft: Draft, path: list[int]) -> tuple[np.ndarray, np.ndarray]:
        width = self._topk.ids.shape[1]
        ids = np.full((draft.candidates, width), -1, dtype=np.int32)
        logprobs = np.full((draft.candidates, width), -np.inf, dtype=np.float32)
        rows = slice(self._row, self._row + len(path))
        self._row = rows.stop
        if rows.stop > len(self._topk.ids):
            raise UserError(f"{self._where}: target_topk has fewer rows than the text has tokens")
        ids[path] = self._topk.ids[rows]
        logprobs[path] = self._topk.logprobs[rows]
        return ids, logprobs
