"""What is known of each method of a setting, as typed numbers, each computed once.

Tables, `speed.json`, figures, the page and the leaderboard render these objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.analysis import acceptance, metrics
from evaluation.analysis.acceptance import Tally
from evaluation.analysis.comparison import UNUSUAL, Comparison, MethodRuns
from evaluation.analysis.curve import CostCurve
from evaluation.analysis.metrics import SpeedUp
from evaluation.analysis.redundancy import Redundancy, redundancy
from evaluation.analysis.sameness import Sameness
from evaluation.analysis.serving import ServingResult, serving_result
from evaluation.analysis.verdicts import PairVerdict
from evaluation.records.runs import RunFile
from evaluation.records.schema import Record

PHASES = ("prefill", "draft", "verify", "accept", "other")


@dataclass(frozen=True)
class StepResult:
    """What only our records tell beside speed and MAT; published traces do not."""

    drafted: float
    """Candidate nodes a step, the root not counted."""
    draft: float
    """Share of wall time."""
    verify: float
    scope: str
    failed: int
    cut: int
    """Generations that ended at the token budget."""
    is_in_turn: bool
    """Were all questions put to the method and to vanilla in turn?"""

    @property
    def rest(self) -> float:
        return 1 - self.draft - self.verify


@dataclass(frozen=True)
class SpeedResult:
    """How fast one method is in one setting, repeats pooled."""

    method: str
    title: str
    """The setting's; empty for single files."""
    files: tuple[str, ...]
    questions: int
    """That both the method and vanilla have finished."""
    tokens_per_second: float
    speed_up: SpeedUp | None
    """None without a vanilla run of the same setting."""
    mat: float
    step: StepResult | None = None
    same: Sameness | None = None
    """How many of its texts are vanilla's; None where that is not known."""
    verdict: PairVerdict | None = None
    """The method and vanilla; None for vanilla itself, and without a vanilla run."""
    doubt: str = ""
    """Why its figures are not believed; empty where they are."""

    @property
    def cost(self) -> float | None:
        """What a step costs in vanilla steps."""
        return self.mat / self.speed_up.ratio if self.speed_up else None

    def as_json(self) -> dict[str, Any]:
        """A row of `speed.json`."""
        up, step = self.speed_up, self.step
        row: dict[str, Any] = {
            "method": self.method,
            "title": self.title,
            "files": list(self.files),
            "questions": self.questions,
            "tokens_per_second": self.tokens_per_second,
            "speed_up": up and up.ratio,
            "low": up and up.low,
            "high": up and up.high,
            "mean_ratio": up and up.mean,
            "speed_up_as_timed": up and (up.timed or up.ratio),
            "noise": up and up.noise,
            "load": up and up.load,
            "verdict": self.verdict and self.verdict.against_b,
            "doubt": self.doubt,
            "texts_as_vanilla": self.same and self.same.equal,
            "texts_compared": self.same and self.same.compared,
            "mat": self.mat,
        }
        if step:
            row["drafted"] = step.drafted
            row["cost"] = self.cost
            row["draft"], row["verify"], row["rest"] = step.draft, step.verify, step.rest
            row["scope"], row["failed"], row["cut"] = step.scope, step.failed, step.cut
            row["in_turn"] = step.is_in_turn
        return row


def speed_result(
    comparison: Comparison, method: MethodRuns, among: set[str] | None = None
) -> SpeedResult:
    """Of one method on the questions it shares with vanilla; `among` narrows them."""
    questions = comparison.common_questions(method)
    totals = method.totals
    if among is not None:
        questions &= among
        totals = {question: total for question, total in totals.items() if question in among}
    records = method.records_on(questions)
    return SpeedResult(
        method=method.name,
        title=comparison.title,
        files=tuple(str(run.path) for run in method.runs),
        questions=len(questions),
        tokens_per_second=metrics.speed(totals),
        speed_up=comparison.speed_up(method, questions),
        mat=metrics.mean_accepted_tokens(records),
        step=StepResult(
            drafted=metrics.drafted_per_step(records),
            draft=metrics.share(records, "draft_time"),
            verify=metrics.share(records, "verify_time"),
            scope=method.all_records[0].memory_scope,
            failed=sum(record.failed for record in method.all_records),
            cut=sum(record.finish_reason == "length" for record in method.all_records),
            is_in_turn=comparison.is_in_turn(method, questions),
        ),
        same=comparison.sameness(method),
        verdict=comparison.against_vanilla(method, questions),
        doubt=comparison.doubt(method, questions),
    )


def traced_speed_result(run: RunFile, base: RunFile | None) -> SpeedResult:
    """The same of a published trace, as far as it tells."""
    lengths: list[int] = []
    for question in run.traces:
        lengths += question.accept_lengths
    for record in run.records:
        lengths += record.accept_lengths
    return SpeedResult(
        method=run.name,
        title="",
        files=(str(run.path),),
        questions=len(run.totals),
        tokens_per_second=metrics.speed(run.totals),
        speed_up=metrics.speed_up(run.totals, base.totals) if base else None,
        mat=sum(lengths) / len(lengths) if lengths else metrics.NAN,
    )


@dataclass(frozen=True)
class AcceptanceResult:
    """Where in texts and drafts a method accepts."""

    phases: dict[str, Tally]
    """'thinking' and 'answer'."""
    thirds: list[Tally]
    """Of the output."""
    sources: dict[str, Tally]
    """By who drafted."""
    generations: dict[int, Tally]
    """By round or sample, counted from 0."""
    positions: list[float]
    """Of the drafts of at least d nodes, d = 1, 2, ...: the share accepted up to d."""


@dataclass(frozen=True)
class HealthResult:
    """Unusual generations, and speed without them; memory and energy."""

    generations: int
    cut: int
    looping: int
    failed: int
    usual_speed_up: SpeedUp | None
    """Over the questions without a cut or looping generation."""
    usual_questions: int
    peak_memory: int
    """Bytes."""
    energy_per_token: float | None
    """Joules; None where it is not known."""


@dataclass(frozen=True)
class TimeResult:
    """Where wall time goes, over all generations."""

    seconds: dict[str, float]
    """By phase."""
    wall: float
    steps: int

    def per_step(self, phase: str) -> float:
        """Milliseconds."""
        return 1e3 * self.seconds[phase] / max(1, self.steps)


@dataclass(frozen=True)
class MethodResult:
    """Everything about one method of a setting."""

    name: str
    repeats: int
    speed: SpeedResult
    acceptance: AcceptanceResult
    health: HealthResult
    time: TimeResult
    by_category: dict[str, float]
    """Speed-up by category of questions; NaN where there are none in common with vanilla."""
    predicted: float | None
    """Speed-up by the machine's cost curve; None without one."""
    serving: ServingResult | None = None
    """What requests to an engine took; None of a run of ours."""


@dataclass(frozen=True)
class SettingResult:
    """Everything about one setting, vanilla first."""

    title: str
    numbered: str
    """'sample' or 'round': what numbers the generations of a question."""
    has_vanilla: bool
    methods: tuple[MethodResult, ...]
    noise: tuple[PairVerdict, ...]
    """Vanilla against itself."""
    pairs: tuple[PairVerdict, ...]
    redundancy: Redundancy


def setting_result(comparison: Comparison, curve: CostCurve | None) -> SettingResult:
    methods = [method_result(comparison, method, curve) for method in comparison.methods]
    return SettingResult(
        title=comparison.title,
        numbered=comparison.numbered,
        has_vanilla=bool(comparison.vanilla and comparison.vanilla.totals),
        methods=tuple(methods),
        noise=tuple(comparison.noise),
        pairs=tuple(comparison.pairs()),
        redundancy=redundancy(comparison.reference.texts),
    )


def method_result(
    comparison: Comparison, method: MethodRuns, curve: CostCurve | None
) -> MethodResult:
    return MethodResult(
        name=method.name,
        repeats=len(method.runs),
        speed=speed_result(comparison, method),
        acceptance=acceptance_result(comparison, method),
        health=health_result(comparison, method),
        time=time_result(method.records),
        by_category=_by_category(comparison, method),
        predicted=curve.predicted(comparison, method) if curve else None,
        serving=serving_result(method.records),
    )


def acceptance_result(comparison: Comparison, method: MethodRuns) -> AcceptanceResult:
    records = method.records
    numbered = comparison.numbered
    return AcceptanceResult(
        phases=acceptance.by_phase(records, method.manifest.end_think_id),
        thirds=acceptance.by_place(records, parts=3),
        sources=acceptance.by_source(records),
        generations=acceptance.grouped(records, lambda record: getattr(record, numbered)),
        positions=acceptance.by_draft_position(records).rates(),
    )


def health_result(comparison: Comparison, method: MethodRuns) -> HealthResult:
    records = method.records
    usual = comparison.common_questions(method, without=UNUSUAL)
    tokens = sum(record.tokens for record in records)
    energies = [record.energy for record in records if record.energy is not None]
    is_known = tokens and len(energies) == len(records)
    return HealthResult(
        generations=len(method.all_records),
        cut=sum(record.finish_reason == "length" for record in records),
        looping=len(method.looping),
        failed=sum(record.failed for record in method.all_records),
        usual_speed_up=comparison.speed_up(method, usual),
        usual_questions=len(usual),
        peak_memory=max((record.peak_memory or 0 for record in records), default=0),
        energy_per_token=sum(energies) / tokens if is_known else None,
    )


def time_result(records: Sequence[Record]) -> TimeResult:
    seconds = {}
    for phase in PHASES:
        seconds[phase] = sum(getattr(record, f"{phase}_time") for record in records)
    return TimeResult(
        seconds=seconds,
        wall=sum(record.seconds for record in records),
        steps=sum(record.steps for record in records),
    )


def _by_category(comparison: Comparison, method: MethodRuns) -> dict[str, float]:
    category_of = comparison.categories()
    shared = comparison.common_questions(method)
    ratios = {}
    for category in sorted(set(category_of.values())):
        questions = {q for q in shared if category_of.get(q) == category}
        up = comparison.speed_up(method, questions)
        ratios[category] = up.ratio if up else metrics.NAN
    return ratios
