"""Are a method's texts vanilla's, token for token? Lossless methods' are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.records.runs import RunFile


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
    vanilla = {record.key: record.output_ids for record in base.records if record.is_whole}
    common = [r for r in run.records if r.is_whole and r.key in vanilla]
    equal = sum(record.output_ids == vanilla[record.key] for record in common)
    return Sameness(equal, len(common))


def of_repeats(runs: Sequence[RunFile], bases: Sequence[RunFile]) -> Sameness:
    """All repeats together, each with vanilla's repeat of its number."""
    equal = compared = 0
    for number, run in enumerate(runs):
        same = sameness(run, bases[min(number, len(bases) - 1)])
        equal, compared = equal + same.equal, compared + same.compared
    return Sameness(equal, compared)
