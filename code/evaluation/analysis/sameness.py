"""Are a method's texts vanilla's, token for token? Lossless methods' are.

Where an engine tells no tokens, its texts are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.records.runs import RunFile
from evaluation.records.schema import Record


@dataclass(frozen=True)
class Sameness:
    """How many of a run's texts are vanilla's, of those that both have."""

    equal: int
    compared: int

    @property
    def is_exact(self) -> bool:
        return self.equal == self.compared > 0


def sameness(run: RunFile, base: RunFile) -> Sameness:
    """Compare every generation's tokens with those of the vanilla run."""
    vanilla = {record.key: _written(record) for record in base.records if record.is_whole}
    common = [r for r in run.records if r.is_whole and r.key in vanilla]
    equal = sum(_written(record) == vanilla[record.key] for record in common)
    return Sameness(equal, len(common))


def _written(record: Record) -> list[int] | str:
    return record.output_ids or record.text


def of_repeats(runs: Sequence[RunFile], bases: Sequence[RunFile]) -> Sameness:
    """All repeats together, each with vanilla's repeat of its number."""
    equal = compared = 0
    for number, run in enumerate(runs):
        same = sameness(run, bases[min(number, len(bases) - 1)])
        equal, compared = equal + same.equal, compared + same.compared
    return Sameness(equal, compared)
