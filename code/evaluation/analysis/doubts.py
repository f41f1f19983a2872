"""Figures that are not believed: what no method can reach, and what was not timed alike.

Such a row is shown, with the reason in its verdict's place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluation.analysis.metrics import SpeedUp
from evaluation.records.schema import Record

LEAST_NOISE = 0.05
"""A step that is cheaper than vanilla's by less than this is taken for one that costs the same."""

LEAST_LOAD = 0.05
"""Loads that differ by less are within what the control can tell."""


def doubt(up: SpeedUp | None, mat: float, records: Sequence[Record]) -> str:
    """Why a speed-up is not believed, in one line; empty where nothing speaks against it.

    `records` are all that it was computed from, vanilla's too.
    """
    if shared := sum(record.shared for record in records):
        return (
            f"{shared} of {len(records)} generations, vanilla's included, ran while another run"
            " used the same GPU or cores"
        )
    if up is None:
        return ""
    noise = max(LEAST_NOISE, up.noise or 0.0)
    cost = mat / up.ratio
    if cost * (1 + noise) < 1:
        return (
            f"a step would cost {cost:.2f} vanilla steps, and verifying a draft cannot cost less"
            " than one: the two were not timed alike"
        )
    if up.load is not None:
        loads = abs(math.log(up.load))
        if loads > max(LEAST_LOAD, up.load_error, abs(math.log(up.ratio))):
            return (
                f"the machine was {max(up.load, 1 / up.load):.2f} times"
                f" {'slower' if up.load > 1 else 'faster'} than for vanilla, more than the"
                " difference between the two"
            )
    return ""
