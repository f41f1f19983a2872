"""Runs as what is compared: the methods of a setting, repeats of a method together.

Repeats are runs of one method whose manifests agree in everything that decides the records. Runs of
one method with other options are shown side by side under labels that name what differs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from evaluation.analysis import acceptance, doubts, metrics, verdicts
from evaluation.analysis.drift import drift
from evaluation.analysis.metrics import SpeedUp
from evaluation.analysis.sameness import Sameness, of_repeats
from evaluation.analysis.verdicts import PairVerdict
from evaluation.records.manifest import Manifest
from evaluation.records.runs import RunFile, Setting, find_runs, note_differences
from evaluation.records.schema import Record
from evaluation.records.totals import Total, by_question, finished

Unusual = Literal["cut", "looping"]
UNUSUAL: tuple[Unusual, ...] = ("cut", "looping")
"""Kinds of generations without whose questions speed-ups are given once more."""


@dataclass(frozen=True)
class MethodRuns:
    """One method with one set of options in one setting, its repeats together."""

    name: str
    """Its label: the method, and where there are others of it, what differs."""
    runs: tuple[RunFile, ...]

    @property
    def manifest(self) -> Manifest:
        """Of the first repeat."""
        return self.runs[0].manifest

    @cached_property
    def all_records(self) -> list[Record]:
        """All generations of all repeats, failed ones included."""
        return [record for run in self.runs for record in run.records]

    @cached_property
    def records(self) -> list[Record]:
        """Finished generations of all repeats."""
        return finished(self.all_records)

    @property
    def texts(self) -> list[Record]:
        """Finished generations of the first repeat: each text once."""
        return finished(self.runs[0].records)

    @cached_property
    def totals(self) -> dict[str, Total]:
        """Tokens and seconds of every question that all repeats have finished."""
        return verdicts.pooled([run.totals for run in self.runs])

    def records_on(self, questions: Iterable[str]) -> list[Record]:
        """Finished generations of these questions, all repeats."""
        wanted = set(questions)
        return [record for record in self.records if record.question_id in wanted]

    @cached_property
    def looping(self) -> list[Record]:
        """Finished generations that end in a loop."""
        end = self.manifest.end_think_id
        return [record for record in self.records if acceptance.looping(record, end)]

    def unusual_questions(self, kind: Unusual) -> set[str]:
        """Questions with a generation that was cut, or that loops."""
        if kind == "looping":
            return {record.question_id for record in self.looping}
        return {
            record.question_id for record in self.all_records if record.finish_reason == "length"
        }


@dataclass(frozen=True)
class Comparison:
    """The methods of one setting, vanilla first."""

    setting: Setting
    methods: tuple[MethodRuns, ...]
    name: str
    """Of the setting, whatever number of samples is decoded together."""

    @property
    def title(self) -> str:
        """Of this comparison."""
        together = self.setting.together
        return self.name if together == 1 else f"{self.name}, {together} together"

    @property
    def numbered(self) -> str:
        """What numbers the generations of a question."""
        has_samples = any(record.sample for record in self.reference.all_records)
        return "sample" if has_samples else "round"

    @cached_property
    def vanilla(self) -> MethodRuns | None:
        return next((method for method in self.methods if method.name == "vanilla"), None)

    @property
    def reference(self) -> MethodRuns:
        """Vanilla where it is there: all lossless methods share its texts."""
        return self.vanilla or self.methods[0]

    def common_questions(self, method: MethodRuns, without: Iterable[Unusual] = ()) -> set[str]:
        """Questions that both the method and vanilla have finished.

        `without` drops those with such a generation in either.
        """
        questions = set(method.totals)
        if self.vanilla is None:
            return questions
        questions &= set(self.vanilla.totals)
        for kind in without:
            questions -= method.unusual_questions(kind)
            questions -= self.vanilla.unusual_questions(kind)
        return questions

    def speed_up(self, method: MethodRuns, questions: set[str]) -> SpeedUp | None:
        """Over vanilla on these questions; None where there are none, or no vanilla."""
        if self.vanilla is None or not questions:
            return None
        totals = {q: total for q, total in method.totals.items() if q in questions}
        return metrics.speed_up(totals, self.vanilla.totals)

    @cached_property
    def noise(self) -> list[PairVerdict]:
        """Vanilla against itself: every two repeats, or the choices of one run."""
        if self.vanilla is None:
            return []
        parts = [run.totals for run in self.vanilla.runs]
        if len(parts) < 2:
            parts = _by_choice(self.vanilla.runs[0])
        pairs = []
        for i, first in enumerate(parts):
            for j in range(i + 1, len(parts)):
                if set(first) & set(parts[j]):
                    names = f"vanilla, repeat {i + 1}", f"vanilla, repeat {j + 1}"
                    pairs.append(verdicts.compare(*names, first, parts[j]))
        return pairs

    @cached_property
    def noise_floor(self) -> float:
        """As a ratio of at least 1: the difference of vanilla's repeats, or what its variation from
        question to question lets two equal methods differ by, whichever is larger."""
        floor = verdicts.noise_floor(self.noise)
        if self.vanilla is None:
            return floor
        itself = drift(self.vanilla.totals, self.vanilla.totals)
        return max(floor, 1 + (itself.noise or 0.0)) if itself else floor

    @cached_property
    def doubts(self) -> dict[str, str]:
        """Why the figures of a method are not believed, by method; only of those that are not."""
        found = {}
        for method in self.methods:
            if reason := self.doubt(method, self.common_questions(method)):
                found[method.name] = reason
        return found

    def doubt(self, method: MethodRuns, questions: set[str]) -> str:
        """Why the method's figures on these questions are not believed; empty where they are."""
        records = method.records_on(questions)
        if self.vanilla is None or not questions:
            return ""
        mat = metrics.mean_accepted_tokens(records)
        if method is not self.vanilla:
            records = records + self.vanilla.records_on(questions)
        return doubts.doubt(self.speed_up(method, questions), mat, records)

    def pairs(self) -> list[PairVerdict]:
        """Every pair of methods, judged against the noise where it is known."""
        totals = {method.name: method.totals for method in self.methods if method.totals}
        return verdicts.all_pairs(totals, self.noise_floor, self.doubts)

    def against_vanilla(self, method: MethodRuns, questions: set[str]) -> PairVerdict | None:
        """The method and vanilla on these questions; None for vanilla itself, and without one."""
        if self.vanilla is None or method is self.vanilla or not questions:
            return None
        totals = {q: total for q, total in method.totals.items() if q in questions}
        is_refused = bool(self.doubt(method, questions))
        names = method.name, self.vanilla.name
        return verdicts.compare(*names, totals, self.vanilla.totals, self.noise_floor, is_refused)

    def sameness(self, method: MethodRuns) -> Sameness | None:
        """How many of the method's texts are vanilla's; None without a vanilla run."""
        return of_repeats(method.runs, self.vanilla.runs) if self.vanilla else None

    def is_in_turn(self, method: MethodRuns, questions: set[str]) -> bool:
        """Was every one of these questions put to the method and to vanilla in turn?"""
        return all("vanilla" in record.in_turn for record in method.records_on(questions))

    def categories(self) -> dict[str, str]:
        """Category of every question that vanilla has finished."""
        if self.vanilla is None:
            return {}
        return {record.question_id: record.category for record in self.vanilla.records}


def _by_choice(run: RunFile) -> list[dict[str, Total]]:
    """Totals of every choice of a run by itself."""
    choices: dict[int, list[Record]] = defaultdict(list)
    for record in run.records:
        choices[record.choice].append(record)
    return [by_question(choices[choice]) for choice in sorted(choices)]


def gather(folder: Path, notices: list[str], may_be_empty: bool = False) -> list[Comparison]:
    """Every setting below a folder; notes in `notices` what is unfinished or cannot be compared.

    Raises UserError where there are no records, unless it `may_be_empty`, or runs were asked
    different prompts.
    """
    return comparisons_of(find_runs(folder, notices, may_be_empty), notices)


def gather_several(
    folders: Sequence[Path], notices: list[str], may_be_empty: bool = False
) -> list[Comparison]:
    """The settings of every folder, each compared with vanilla of its own folder.

    Settings that several folders have are told apart by the folder. Raises as `gather`.
    """
    found: list[tuple[Path, Comparison]] = []
    for folder in folders:
        for comparison in gather(folder, notices, may_be_empty):
            found.append((folder, comparison))
    folders_with = Counter(comparison.title for _, comparison in found)
    comparisons = []
    for folder, comparison in found:
        if folders_with[comparison.title] > 1:
            comparison = replace(comparison, name=f"{comparison.name}, {folder}")
        comparisons.append(comparison)
    return comparisons


def comparisons_of(runs: Iterable[RunFile], notices: list[str]) -> list[Comparison]:
    """These runs by setting, vanilla first in each."""
    groups: dict[Setting, dict[str, list[RunFile]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if not run.records:
            notices.append(
                f"{run.path}: a published trace; speed.py reads it,"
                " other tables need this benchmark's records"
            )
            continue
        groups[run.setting][run.name].append(run)
        expected = run.manifest.questions
        if expected and len(run.prompts) < expected:
            notices.append(
                f"{run.path.name}: {len(run.prompts)} of {expected} questions are finished"
            )
    several_models = len({setting.model for setting in groups}) > 1
    comparisons = []
    for setting, by_method in sorted(groups.items()):
        comparison = _comparison(setting, by_method, several_models)
        _note_differences(comparison, notices)
        comparisons.append(comparison)
    return comparisons


def _comparison(
    setting: Setting, by_method: dict[str, list[RunFile]], several_models: bool
) -> Comparison:
    methods: list[MethodRuns] = []
    for method in sorted(by_method, key=lambda method: (method != "vanilla", method)):
        methods += variants(method, by_method[method])
    name = f"{setting.paradigm}, T = {setting.temperature:g}"
    if several_models:
        name += f", {methods[0].manifest.model_name}"
    return Comparison(setting, tuple(methods), name)


def variants(name: str, runs: list[RunFile]) -> list[MethodRuns]:
    """The runs of one method by their options; the first ones keep the method's name."""
    groups: dict[str, list[RunFile]] = defaultdict(list)
    for run in runs:
        groups[repr(sorted(run.manifest.deciding_settings().items()))].append(run)
    first, *others = groups.values()
    methods = [MethodRuns(name, tuple(first))]
    base = first[0].manifest.deciding_settings()
    for group in others:
        options = group[0].manifest.deciding_settings()
        differing = []
        for key in sorted(set(base) | set(options)):
            if base.get(key) != options.get(key):
                differing.append(f"{key} {options.get(key)}")
        methods.append(MethodRuns(f"{name} ({', '.join(differing)})", tuple(group)))
    return methods


def _note_differences(comparison: Comparison, notices: list[str]) -> None:
    if comparison.vanilla is None:
        notices.append(f"{comparison.title}: no vanilla run, so no speed-ups; run --method vanilla")
        return
    base = comparison.vanilla.runs[0]
    if note := base.manifest.cap_note:
        notices.append(f"{comparison.title}: {note}")
    for method in comparison.methods:
        for run in method.runs:
            if run is not base:
                note_differences(run, base, notices)
