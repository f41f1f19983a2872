"""Runs as what is compared: settings, their methods, repeats of a method together, and what is missing.

Repeats are runs of one method whose manifests agree in everything that decides the records; runs of one method with
other options are shown side by side under labels that name what differs.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluation import acceptance, metrics, verdicts
from evaluation.metrics import SpeedUp, Total
from evaluation.records import Record
from evaluation.runs import Run, comparable, find_runs

ODD = ("cut", "looping")  # generations without which speed-ups are given once more


@dataclass(frozen=True)
class Method:
    """One method with one set of options in one setting, its repeats together; `name` is its label."""

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def records(self) -> list[Record]:
        """Finished generations of all repeats."""
        return metrics.finished(r for run in self.runs for r in run.records)

    @property
    def texts(self) -> list[Record]:
        """Finished generations of the first repeat: each text once."""
        return metrics.finished(self.runs[0].records)

    @cached_property
    def totals(self) -> dict[str, Total]:
        return verdicts.pooled([run.totals for run in self.runs])

    def on(self, questions: Iterable[str]) -> list[Record]:
        """Finished generations of these questions, all repeats."""
        wanted = set(questions)
        return [r for r in self.records if r.question_id in wanted]

    @cached_property
    def odd(self) -> dict[str, set[str]]:
        """Questions with a cut, looping or failed generation."""
        every = [r for run in self.runs for r in run.records]
        return {"failed": {r.question_id for r in every if r.failed},
                "cut": {r.question_id for r in every if r.finish_reason == "length"},
                "looping": {r.question_id for r in self.looping}}

    @cached_property
    def looping(self) -> list[Record]:
        return [r for r in self.records if acceptance.looping(r, self.end_think_id)]

    @property
    def end_think_id(self) -> int | None:
        return self.runs[0].manifest.get("end_think_id")

    def phases(self) -> dict[str, float]:
        """Seconds in every phase, over all generations."""
        return {p: sum(getattr(r, f"{p}_time") for r in self.records) for p in acceptance.PHASES}

    @property
    def steps(self) -> int:
        return sum(len(r.accept_lengths) for r in self.records)


@dataclass(frozen=True)
class Setting:
    """Methods compared with each other."""

    paradigm: str
    temperature: float
    model: str
    methods: tuple[Method, ...]
    title: str

    @property
    def numbered(self) -> str:
        """What numbers the generations of a question."""
        return "sample" if self.paradigm == "best_of_n" else "round"

    @cached_property
    def vanilla(self) -> Method | None:
        return next((m for m in self.methods if m.name == "vanilla"), None)

    def shared(self, method: Method, without: tuple[str, ...] = ()) -> set[str]:
        """Questions that speed-ups are over: finished by both; `without` drops those with such a generation in either."""
        if self.vanilla is None:
            return set(method.totals)
        drop = set().union(*(side.odd[kind] for side in (method, self.vanilla) for kind in without))
        return set(method.totals) & set(self.vanilla.totals) - drop

    def speed_up(self, method: Method, without: tuple[str, ...] = (), among: set[str] | None = None) -> SpeedUp | None:
        """Over vanilla on the shared questions (`among` narrows them); None where there are none."""
        shared = self.shared(method, without)
        shared = shared if among is None else shared & among
        if self.vanilla is None or not shared:
            return None
        return metrics.speed_up({q: t for q, t in method.totals.items() if q in shared}, self.vanilla.totals)

    @cached_property
    def noise(self) -> list[verdicts.Verdict]:
        """Vanilla against itself: every two repeats, or the choices of one run."""
        if self.vanilla is None:
            return []
        halves = [run.totals for run in self.vanilla.runs]
        if len(halves) < 2:
            by_choice: dict[int, list[Record]] = defaultdict(list)
            for r in self.vanilla.runs[0].records:
                by_choice[r.choice].append(r)
            halves = [metrics.by_question(by_choice[c]) for c in sorted(by_choice)]
        return [verdicts.compare(f"vanilla, repeat {i + 1}", f"vanilla, repeat {j + 1}", halves[i], halves[j])
                for i in range(len(halves)) for j in range(i + 1, len(halves)) if set(halves[i]) & set(halves[j])]

    def judged(self) -> list[verdicts.Verdict]:
        """Every pair of methods, judged against the noise where it is known."""
        return verdicts.all_pairs({m.name: m.totals for m in self.methods if m.totals}, verdicts.floor(self.noise))


def gather(folder: Path, notices: list[str]) -> list[Setting]:
    """Every setting below a folder; says in `notices` what is unfinished or cannot be compared."""
    return settings_of(find_runs(folder, notices), notices)


def settings_of(runs: list[Run], notices: list[str]) -> list[Setting]:
    """The settings of these runs, vanilla first in each."""
    groups: dict[tuple, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if not run.records:
            notices.append(f"{run.path}: a published trace; speed.py reads it, other tables need this benchmark's records")
            continue
        groups[run.setting][run.name].append(run)
        expected = run.manifest.get("questions")
        if expected and len(run.prompts) < expected:
            notices.append(f"{run.path.name}: {len(run.prompts)} of {expected} questions are finished")
    several = len({model for *_, model in groups}) > 1
    settings = []
    for (paradigm, temperature, model), methods in sorted(groups.items()):
        order = sorted(methods, key=lambda name: (name != "vanilla", name))
        found = tuple(m for name in order for m in variants(name, methods[name]))
        title = f"{paradigm}, T = {temperature:g}" + (f", {found[0].runs[0].model_name}" if several else "")
        setting = Setting(paradigm, temperature, model, found, title)
        _check(setting, notices)
        settings.append(setting)
    return settings


def variants(name: str, runs: list[Run]) -> list[Method]:
    """The runs of one method by their options; the first ones keep the method's name."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[repr(sorted(_options(run).items()))].append(run)
    first, *others = groups.values()
    found = [Method(name, tuple(first))]
    base = _options(first[0])
    for group in others:
        mine = _options(group[0])
        differing = ", ".join(f"{k} {mine.get(k)}" for k in sorted(set(base) | set(mine)) if base.get(k) != mine.get(k))
        found.append(Method(f"{name} ({differing})", tuple(group)))
    return found


def _options(run: Run) -> dict[str, Any]:
    """What decides a run's records, flat; its name is not among it."""
    settings = dict(run.manifest.get("settings", {}))
    settings.pop("model_id", None)
    options = settings.pop("options", {})
    return {k: str(v) for k, v in {**settings, **(options if isinstance(options, dict) else {})}.items()}


def _check(setting: Setting, notices: list[str]) -> None:
    if setting.vanilla is None:
        notices.append(f"{setting.title}: no vanilla run, so no speed-ups; run --method vanilla")
        return
    base = setting.vanilla.runs[0]
    for run in (run for method in setting.methods for run in method.runs if run is not base):
        comparable(run, base, notices)
