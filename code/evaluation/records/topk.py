"""The target's likeliest tokens and their log-probabilities, packed into a record's field.

Rows of K tokens, one row after every token that was emitted but the last; where the method itself
learns from every node it verified, one row a candidate of every step. Token ids are int32,
log-probabilities float16, both zlib-compressed and base64-coded: at K = 10 some 30 bytes a row.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np

KEPT, CANDIDATES = "kept", "candidates"
"""Whose rows they are."""


@dataclass(frozen=True)
class Topk:
    """Rows of likeliest tokens, best first."""

    of: str
    """KEPT or CANDIDATES."""
    ids: np.ndarray
    """int32 [rows, K]."""
    logprobs: np.ndarray
    """float16 [rows, K], at temperature 1."""

    def packed(self) -> str:
        raw = self.ids.astype("<i4").tobytes() + self.logprobs.astype("<f2").tobytes()
        coded = base64.b64encode(zlib.compress(raw)).decode("ascii")
        return f"{self.of}:{self.ids.shape[1]}:{coded}"

    @classmethod
    def unpacked(cls, text: str) -> Topk:
        """Raises ValueError for text that `packed` did not write."""
        of, width, coded = text.split(":")
        k = int(width)
        if of not in (KEPT, CANDIDATES) or k < 1:
            raise ValueError(f"no rows of '{of}'")
        try:
            raw = zlib.decompress(base64.b64decode(coded, validate=True))
        except zlib.error as error:
            raise ValueError(str(error)) from None
        rows, left = divmod(len(raw), 6 * k)
        if left:
            raise ValueError("cut short")
        split = 4 * k * rows
        ids = np.frombuffer(raw[:split], dtype="<i4").reshape(rows, k)
        logprobs = np.frombuffer(raw[split:], dtype="<f2").reshape(rows, k)
        return cls(of, ids, logprobs)
