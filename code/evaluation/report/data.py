"""What the report shows, gathered from a folder of runs: settings, their methods, and what is missing.

Repeats of a run (same setting and method, several files) are pooled.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluation import acceptance, metrics, verdicts
from evaluation.metrics import SpeedUp, Total
from evaluation.records import Record
from evaluation.runs import Run, comparable, find_runs


@dataclass(frozen=True)
class Method:
    """One method in one setting, its repeats together."""

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def records(self) -> list[Record]:
        """Finished generations of all repeats."""
        return metrics.finished(r for run in self.runs for r in run.records)

    @cached_property
    def totals(self) -> dict[str, Total]:
        return verdicts.pooled([run.totals for run in self.runs])

    @cached_property
    def odd(self) -> dict[str, set[str]]:
        """Questions with a cut, looping or failed generation."""
        every = [r for run in self.runs for r in run.records]
        return {"failed": {r.question_id for r in every if r.failed},
                "cut": {r.question_id for r in every if r.finish_reason == "length"},
                "looping": {r.question_id for r in every if not r.failed and acceptance.looping(r)}}

    @property
    def end_think_id(self) -> int | None:
        return self.runs[0].manifest.get("end_think_id")

    def phases(self) -> dict[str, float]:
        """Seconds a step in every phase but the prefill, and the prefill's seconds a generation."""
        steps = max(1, sum(len(r.accept_lengths) for r in self.records))
        found = {p: sum(getattr(r, f"{p}_time") for r in self.records) / steps
                 for p in ("draft", "verify", "accept", "other")}
        found["prefill"] = sum(r.prefill_time for r in self.records) / max(1, len(self.records))
        return found


@dataclass(frozen=True)
class Setting:
    """Methods compared with each other."""

    paradigm: str
    temperature: float
    model: str
    methods: tuple[Method, ...]

    @property
    def title(self) -> str:
        return f"{self.paradigm}, T = {self.temperature:g}"

    @cached_property
    def vanilla(self) -> Method | None:
        return next((m for m in self.methods if m.name == "vanilla"), None)

    def speed_up(self, method: Method, without: tuple[str, ...] = ()) -> SpeedUp | None:
        """Over vanilla; `without` leaves out questions with such a generation in either run."""
        if self.vanilla is None:
            return None
        drop = set().union(*(side.odd[kind] for side in (method, self.vanilla) for kind in without))
        mine = {q: t for q, t in method.totals.items() if q not in drop}
        return metrics.speed_up(mine, self.vanilla.totals) if set(mine) & set(self.vanilla.totals) else None

    def noise(self) -> verdicts.Verdict | None:
        """Vanilla against itself: two repeats, or two choices of one run."""
        runs = self.vanilla.runs if self.vanilla else ()
        if len(runs) > 1:
            return verdicts.compare("vanilla", "vanilla again", runs[0].totals, runs[1].totals)
        halves: dict[int, list[Record]] = defaultdict(list)
        for r in self.vanilla.records if self.vanilla else ():
            halves[r.choice].append(r)
        if len(halves) < 2:
            return None
        first, second = (metrics.by_question(halves[c]) for c in sorted(halves)[:2])
        return verdicts.compare("vanilla", "vanilla again", first, second)


def gather(folder: Path, notices: list[str]) -> list[Setting]:
    """Every setting below a folder; says in `notices` what is unfinished or cannot be compared."""
    groups: dict[tuple, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in find_runs(folder, notices):
        if not run.records:
            notices.append(f"{run.path}: a published trace; speed.py reads it, the report needs this benchmark's records")
            continue
        groups[run.setting][run.name].append(run)
        expected = run.manifest.get("questions")
        if expected and len(run.prompts) < expected:
            notices.append(f"{run.path.name}: {len(run.prompts)} of {expected} questions are finished")
    settings = []
    for (paradigm, temperature, model), methods in sorted(groups.items()):
        order = sorted(methods, key=lambda name: (name != "vanilla", name))
        setting = Setting(paradigm, temperature, model, tuple(Method(n, tuple(methods[n])) for n in order))
        for run in (run for method in setting.methods for run in method.runs if setting.vanilla):
            comparable(run, setting.vanilla.runs[0], notices)
        if setting.vanilla is None:
            notices.append(f"{setting.title}: no vanilla run, so no speed-ups; run --method vanilla")
        settings.append(setting)
    return settings


def calibration(folder: Path) -> dict[str, Any] | None:
    """The cost curve of `evaluation.calibrate`, where one lies in the folder."""
    import json

    file = folder / "calibration.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def predicted(method: Method, setting: Setting, curve: dict[str, Any]) -> float:
    """Speed-up expected from MAT, the measured cost of verifying as many nodes, and the draft time.

    MAT / (verify(n) + draft) with both in units of verify(1), n the mean nodes a step with its root; linear between
    measured n.
    """
    import numpy as np

    nodes = 1 + metrics.drafted_per_step(method.records)
    seconds = np.interp(nodes, curve["nodes"], curve["seconds"])
    draft = method.phases()["draft"]
    return metrics.mean_accepted_tokens(method.records) * curve["seconds"][0] / (seconds + draft)
