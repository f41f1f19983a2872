"""What an engine's requests took, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.records.schema import Record

TAIL = 95
"""Percentile beside the median."""


@dataclass(frozen=True)
class Spread:
    """Seconds: the median, and what 95 of 100 stay below."""

    median: float
    tail: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread | None:
        """None where nothing is known."""
        if not seconds:
            return None
        return cls(float(np.median(seconds)), float(np.percentile(seconds, TAIL)))


@dataclass(frozen=True)
class ServingResult:
    """Of one method's requests."""

    requests: int
    in_flight: int
    """With how many at most one of them ran."""
    first_token: Spread | None
    """None where replies were not streamed."""
    per_token: Spread | None
    """Behind the first token."""
    latency: Spread | None
    """Of the whole reply."""
    retries: int


def serving_result(records: Sequence[Record]) -> ServingResult | None:
    """None where no record is an engine's."""
    served = [record for record in records if record.is_of_engine]
    if not served:
        return None
    return ServingResult(
        requests=len(served),
        in_flight=max(record.batch for record in served),
        first_token=Spread.of([r.first_token_time for r in served if r.first_token_time]),
        per_token=Spread.of([time for record in served for time in _per_token(record)]),
        latency=Spread.of([r.latency for r in served if r.latency]),
        retries=sum(record.retries for record in served),
    )


def _per_token(record: Record) -> list[float]:
    """One mean a text; none where it is not known."""
    if record.first_token_time is None or record.latency is None or record.tokens < 2:
        return []
    return [(record.latency - record.first_token_time) / (record.tokens - 1)]
