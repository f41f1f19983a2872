"""What steps would cost on a card: accept and draft lengths turned into a speed-up over vanilla."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from evaluation.analysis.curve import CostCurve
from evaluation.analysis.replays import Steps
from model.errors import UserError

BUILT_IN = files("evaluation.analysis") / "costs"


@dataclass(frozen=True)
class Costs:
    """A cost curve, and what it counts."""

    curve: CostCurve
    name: str
    source: str = ""
    """Where an estimate comes from; empty where it was measured."""
    with_host: bool = True
    """Is the drafting time of the machine that replayed added?"""

    @property
    def title(self) -> str:
        """For people."""
        host = "drafting time added" if self.with_host else "drafting time left out"
        kind = f"estimate: {self.source}" if self.source else "measured"
        return f"{self.name} ({self.curve.device}, {self.curve.model}; {kind}; {host})"

    def of(self, steps: Steps) -> float:
        """Of these steps, in vanilla steps at their mean context."""
        vanilla = self.curve.step(1, steps.mean_context)
        seconds = self._verifying(steps, [(n + 1, count) for n, count in steps.drafted.items()])
        if self.with_host:
            seconds += steps.seconds
        return seconds / vanilla

    def of_ideal(self, steps: Steps) -> float:
        """Where every draft had been exactly what was accepted, and had cost no time to make."""
        vanilla = self.curve.step(1, steps.mean_context)
        return self._verifying(steps, list(steps.emitted.items())) / vanilla

    def _verifying(self, steps: Steps, counts: list[tuple[int, int]]) -> float:
        total = 0.0
        for nodes, count in counts:
            total += count * self.curve.step(nodes, steps.mean_context)
        return total


def built_in() -> list[str]:
    """The names of the curves that come with the benchmark."""
    return sorted(file.name.removesuffix(".json") for file in BUILT_IN.iterdir())


def read_costs(name: str, with_host: bool) -> Costs:
    """A file of `evaluation.calibrate`, or a built-in curve by name; UserError for neither."""
    if name in built_in():
        text = (BUILT_IN / f"{name}.json").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise UserError(
                f"cannot read --costs {name}: {reason}; give a file of python -m"
                f" evaluation.calibrate, or one of: {', '.join(built_in())}"
            ) from None
    try:
        data = json.loads(text)
        return Costs(CostCurve.of(data), Path(name).stem, data.get("source", ""), with_host)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"--costs {name} is no cost curve; python -m evaluation.calibrate makes one"
        ) from None
