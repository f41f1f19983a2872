"""The measured cost of verifying n nodes (`evaluation.calibrate`), and the speed-up it predicts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.analysis import metrics
from evaluation.analysis.comparison import Comparison, MethodRuns
from evaluation.records.manifest import Manifest


@dataclass(frozen=True)
class CostCurve:
    """Seconds of one verification of n nodes, at one or more context lengths."""

    model: str
    """The target's fingerprint."""
    device: str
    dtype: str | None
    threads: int | None
    nodes: list[int]
    seconds: list[float]
    """At the first context length."""
    contexts: dict[str, list[float]]
    """By context length."""
    roofline: dict[str, float]
    """Share of the memory-bandwidth roofline that vanilla's step reaches, on a GPU."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> CostCurve:
        """Raises LookupError, TypeError or ValueError where `data` is no curve."""
        curve = cls(
            model=data["model"],
            device=data["device"],
            dtype=data.get("dtype"),
            threads=data.get("threads"),
            nodes=list(data["nodes"]),
            seconds=list(data["seconds"]),
            contexts=dict(data["contexts"]),
            roofline=dict(data.get("roofline", {})),
        )
        count = len(curve.nodes)
        rows = [curve.seconds, *curve.contexts.values()]
        is_whole = count > 0 and len(rows) > 1
        if not is_whole or not all(_are_times(row, count) for row in rows):
            raise ValueError("no times")
        if not all(type(n) is int for n in curve.nodes) or sorted(curve.nodes) != curve.nodes:
            raise ValueError("no numbers of nodes")
        if not _are_times(list(curve.roofline.values()), len(curve.roofline)):
            raise ValueError("no roofline")
        return curve

    def differing(self, manifest: Manifest) -> list[str]:
        """What the curve was measured with that a run was not run with."""
        settings = manifest.settings
        of_run = {
            "model": settings.get("model"),
            "device": manifest.device,
            "dtype": settings.get("dtype"),
            "threads": manifest.threads,
        }
        differing = []
        for name, value in of_run.items():
            of_curve = getattr(self, name)
            if value is not None and value != of_curve:
                differing.append(f"{name} {of_curve} / {value}")
        return differing

    def step(self, nodes: float, context: float) -> float:
        """Seconds of verifying so many nodes behind so many cached tokens.

        Linear between what was measured; behind the most nodes straight on, outside the contexts
        as at the nearest.
        """
        contexts = sorted(self.contexts, key=int)
        at_context = [self._at(nodes, self.contexts[known]) for known in contexts]
        return float(np.interp(context, [int(known) for known in contexts], at_context))

    def _at(self, nodes: float, seconds: Sequence[float]) -> float:
        if len(seconds) > 1 and nodes > self.nodes[-1]:
            slope = (seconds[-1] - seconds[-2]) / (self.nodes[-1] - self.nodes[-2])
            return seconds[-1] + max(0.0, slope) * (nodes - self.nodes[-1])
        return float(np.interp(nodes, self.nodes, seconds))

    def predicted(self, comparison: Comparison, method: MethodRuns) -> float:
        """Speed-up expected from MAT, the cost of verifying as many nodes, and the draft time.

        MAT / (verify(n) + draft) with both in units of verify(1), n the mean nodes a step with its
        root; linear between measured n, NaN beyond them.
        """
        records = method.records_on(comparison.common_questions(method))
        nodes = 1 + metrics.drafted_per_step(records)
        if not records or nodes > self.nodes[-1]:
            return metrics.NAN
        verify = np.interp(nodes, self.nodes, self.seconds)
        steps = sum(len(record.accept_lengths) for record in records)
        draft = sum(record.draft_time or 0.0 for record in records) / max(1, steps)
        mat = metrics.mean_accepted_tokens(records)
        return float(mat * self.seconds[0] / (verify + draft))


def _are_times(row: Sequence[Any], count: int) -> bool:
    """So many numbers above 0?"""
    is_row = isinstance(row, list) and len(row) == count
    return is_row and all(type(s) in (int, float) and 0 < s < float("inf") for s in row)


def read_curve(
    folder: Path, comparisons: Iterable[Comparison], notices: list[str]
) -> CostCurve | None:
    """The curve in the folder's calibration.json; None, and said, where it is no use here."""
    file = folder / "calibration.json"
    if not file.exists():
        return None
    try:
        curve = CostCurve.of(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        notices.append(f"{file} is no cost curve: make it anew with python -m evaluation.calibrate")
        return None
    for comparison in comparisons:
        for method in comparison.methods:
            if differing := curve.differing(method.manifest):
                notices.append(
                    f"{file} was measured elsewhere ({'; '.join(differing)}),"
                    " so nothing is predicted from it"
                )
                return None
    return curve
