"""A golden file: how much is accepted at every draft position, for load tests of engines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.analysis.replay_summary import MethodSummary, ReplaySummary
from evaluation.analysis.replays import Steps, mat
from evaluation.records.writer import write_atomically

DEFINITIONS = {
    "acceptance_length": "tokens emitted a target forward, the target's own token included: the"
    " mean accepted tokens (MAT); every forward counts, also those without a draft",
    "interval": "95 % of acceptance_length, questions resampled",
    "acceptance_rates": "entry i: the share of all forwards in which at least i + 1 drafted tokens"
    " were accepted. Unconditional and falling, as vLLM's synthetic_acceptance_rates; its first"
    " num_speculative_tokens entries are what an engine takes. 1 + their sum is acceptance_length",
    "drafted": "mean nodes drafted a forward, the root not counted",
    "nodes": "most nodes of a draft, root included",
    "scope": "how long the drafter remembered: one request, all of a question's, or the run",
}
MOST = 64
"""Draft positions written."""


@dataclass(frozen=True)
class Golden:
    """The file's content."""

    data: dict[str, Any]

    def write(self, path: Path) -> None:
        write_atomically(path, json.dumps(self.data, indent=1) + "\n")


def golden(summary: ReplaySummary) -> Golden:
    """Of every method of a replay."""
    methods = {}
    for name, method in summary.methods.items():
        methods[name] = _entry(method)
    return Golden(
        {
            "definitions": DEFINITIONS,
            "traces": summary.title,
            "paradigm": summary.paradigm,
            "interleave": summary.interleave,
            "questions": summary.questions,
            "generations": summary.generations,
            "tokens": summary.tokens,
            "methods": methods,
        }
    )


def _entry(method: MethodSummary) -> dict[str, Any]:
    found = mat(method.tally.of_questions())
    return {
        "scope": method.scope,
        "nodes": method.nodes,
        "acceptance_length": found.mean,
        "interval": [found.low, found.high] if found.low == found.low else None,
        "drafted": found.steps.nodes / max(1, found.steps.steps),
        "acceptance_rates": rates(found.steps),
    }


def rates(steps: Steps) -> list[float]:
    """By draft position: the share of all steps that accepted so far; up to the last that did."""
    total = max(1, steps.steps)
    deepest = min(MOST, max(steps.emitted, default=1) - 1)
    shares = []
    for accepted in range(1, deepest + 1):
        reached = sum(count for tokens, count in steps.emitted.items() if tokens > accepted)
        shares.append(reached / total)
    return shares
