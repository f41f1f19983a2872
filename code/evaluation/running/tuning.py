"""What a run measures of the machine before it begins: threads, and how large a draft may be.

On a GPU verifying 60 nodes costs about as much as one, and the published budgets suit it. On a CPU
every node costs: there a draft holds the number of nodes n for which a chain of n, each accepted
with probability ACCEPTED, yields most tokens a second. Several texts together pay for the rows of
all of them: their drafts are smaller.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from evaluation.records.manifest import Manifest, read_manifest
from evaluation.running.spec import RunSpec
from model.contract import NO_CAP
from model.engine.measure import verify_seconds
from model.engine.model import Model

ACCEPTED = 0.7
"""Of a drafted token. Between what copying from the text reaches (0.4 to 0.6 on reasoning) and what
learned drafters do (0.7 to 0.9); the best n changes little between 0.6 and 0.8."""
GIVEN_UP = 0.7
"""Where a number of nodes yields less than this share of the best, larger ones are not tried."""
LADDER = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Nodes tried, the root counted."""
CONTEXT = 256
"""Cached tokens behind which they are."""
ROWS = CONTEXT + LADDER[-1] + 1
"""Of the cache."""
REPEATS = 7
GAIN = 0.9
"""One more thread must bring a tenth: fewer leave the machine to others, and suffer less from
them."""


@dataclass(frozen=True)
class Tuned:
    """What was found, or taken over from the run that is gone on with."""

    threads: int
    max_nodes: int
    """Of methods for which none was asked."""
    costs: dict[int, float] = field(default_factory=dict)
    """What verifying so many nodes of each text costs, as far as was measured, in vanilla steps of
    as many texts together."""


def tune(model: Model, specs: Sequence[RunSpec], together: int = 1) -> Tuned:
    """Settle what the specifications leave open, for so many texts decoded together.

    The model's cache holds ROWS rows at least of each.
    """
    threads = specs[0].model.threads or _begun(specs).threads or fastest_threads(model)
    if model.device.type == "cpu":
        torch.set_num_threads(threads)
    open_specs = [spec for spec in specs if not spec.method.max_nodes]
    if not open_specs:
        return Tuned(threads, NO_CAP)
    begun = _begun(open_specs)
    if found := begun.settings.get("max_nodes"):
        return Tuned(threads, found, begun.node_costs)
    if model.device.type != "cpu":
        return Tuned(threads, NO_CAP)
    costs = node_costs(model, together)
    best = max(costs, key=lambda nodes: expected_tokens(nodes) / costs[nodes])
    return Tuned(threads, NO_CAP if best == LADDER[-1] else best, costs)


def expected_tokens(nodes: int) -> float:
    """Of a step with a chain of `nodes`, the root counted: 1 + p + p^2 + ..."""
    return (1 - ACCEPTED**nodes) / (1 - ACCEPTED)


def _begun(specs: Sequence[RunSpec]) -> Manifest:
    """The manifest of a run that is gone on with; empty where all begin anew."""
    for spec in specs:
        if spec.path.is_file() and spec.path.stat().st_size:
            manifest = read_manifest(spec.path)
            if manifest.data:
                return manifest
    return Manifest({})


def node_costs(model: Model, together: int) -> dict[int, float]:
    """Vanilla steps of verifying n nodes of each text, up to an n that is far from the best."""
    vanilla = verify_seconds(model, 1, CONTEXT, REPEATS, together)
    costs: dict[int, float] = {}
    best = 0.0
    for nodes in LADDER:
        costs[nodes] = verify_seconds(model, nodes, CONTEXT, REPEATS, together) / vanilla
        speed = expected_tokens(nodes) / costs[nodes]
        best = max(best, speed)
        if speed < GIVEN_UP * best:
            break
    return costs


def fastest_threads(model: Model) -> int:
    """How many CPU threads run a vanilla step fastest; on a GPU as many as PyTorch takes."""
    most = torch.get_num_threads()
    if model.device.type != "cpu":
        return most
    best, best_seconds, count = 1, float("inf"), 1
    while count <= min(most, os.cpu_count() or 1):
        torch.set_num_threads(count)
        seconds = verify_seconds(model, 1, CONTEXT, REPEATS)
        if seconds > GAIN * best_seconds:
            break
        best, best_seconds, count = count, seconds, 2 * count
    return best
