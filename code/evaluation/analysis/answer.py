"""What a setting's runs say first: who is fastest, how sure that is, and can it be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from evaluation.analysis.results import MethodResult, SettingResult
from evaluation.analysis.sameness import Sameness
from evaluation.analysis.scores_file import Scores

BASE = "vanilla"


@dataclass(frozen=True)
class Badge:
    """A warning on a method's row: a word or two, and the whole of it."""

    text: str
    detail: str


@dataclass(frozen=True)
class AnswerRow:
    """One method, as the reader wants it first."""

    method: str
    ratio: float | None
    """Speed-up; None where there is no vanilla to compare with."""
    low: float | None
    high: float | None
    verdict: str
    texts: str
    accuracy: float | None
    cost: float | None
    """Seconds a right answer; None where nobody scored, or none is right."""
    memory: int
    """Peak, bytes; 0 where it is not known."""
    tokens_per_second: float | None
    mat: float | None
    """Mean accepted tokens."""
    badges: tuple[Badge, ...]


@dataclass(frozen=True)
class SettingAnswer:
    """One setting's answer in a sentence, and its methods, the fastest first."""

    title: str
    sentence: str
    rows: tuple[AnswerRow, ...]


def answer(result: SettingResult, scores: Mapping[str, Scores]) -> SettingAnswer:
    """Of one setting; `scores` by method, as far as there are any."""
    rows = [_row(method, scores.get(method.name)) for method in result.methods]
    rows.sort(key=lambda row: (row.ratio is None, -(row.ratio or 0.0)))
    return SettingAnswer(result.title, sentence(result), tuple(rows))


def sentence(result: SettingResult) -> str:
    """Made from the verdicts."""
    if not result.has_vanilla:
        return "There is no vanilla run, so nothing to be faster than."
    ranked = [m for m in result.methods if m.name != BASE and m.speed.speed_up]
    ranked.sort(key=lambda m: -m.speed.speed_up.ratio if m.speed.speed_up else 0.0)
    if not ranked:
        return "There is vanilla, and no method that shares a question with it."
    faster = [method for method in ranked if _verdict(method) == "faster"]
    best = (faster or ranked)[0]
    parts = [_claim(best, is_faster=bool(faster))]
    if equals := _as_fast(best.name, result):
        parts.append(f"not distinguishable from {', '.join(equals)}")
    if refused := _faster_but_refused(best, ranked):
        parts.append(f"not believed: {', '.join(refused)}")
    parts.append(_texts(result.methods))
    return "; ".join(parts) + "."


def _claim(best: MethodResult, is_faster: bool) -> str:
    up = best.speed.speed_up
    assert up is not None
    speed = f"{up.ratio:.2f}x vanilla"
    if up.low == up.low:
        speed += f" [{up.low:.2f}, {up.high:.2f}]"
    if is_faster:
        return f"{best.name} is fastest: {speed}"
    return f"No method is shown to be faster than vanilla; the best, {best.name}, is {speed}" + (
        f" ({_verdict(best)})"
    )


def _faster_but_refused(best: MethodResult, ranked: Sequence[MethodResult]) -> list[str]:
    """Methods above the best one whose figures are not believed."""
    refused = []
    for method in ranked:
        if method is best:
            break
        if method.speed.doubt and method.speed.speed_up:
            refused.append(f"{method.name} ({method.speed.speed_up.ratio:.2f}x)")
    return refused


def _verdict(method: MethodResult) -> str:
    """The method against vanilla."""
    if method.speed.doubt:
        return "refused"
    return method.speed.verdict.against_b if method.speed.verdict else ""


def _as_fast(name: str, result: SettingResult) -> list[str]:
    """Methods, vanilla aside, that the questions do not tell from this one."""
    others = []
    for pair in result.pairs:
        if name in (pair.a, pair.b) and pair.winner is None and not pair.is_refused:
            other = pair.b if pair.a == name else pair.a
            if other != BASE:
                others.append(other)
    return others


def _texts(methods: Sequence[MethodResult]) -> str:
    differing = []
    for method in methods:
        same = method.speed.same
        if same and same.compared and not same.is_exact:
            differing.append(f"{method.name} ({same.compared - same.equal} of {same.compared})")
    if differing:
        return f"texts that are not vanilla's: {', '.join(differing)}"
    return "all texts are vanilla's, token for token"


def _row(method: MethodResult, scores: Scores | None) -> AnswerRow:
    up = method.speed.speed_up
    has_interval = up is not None and up.low == up.low
    return AnswerRow(
        method=method.name,
        ratio=up.ratio if up else None,
        low=up.low if up and has_interval else None,
        high=up.high if up and has_interval else None,
        verdict="" if method.name == BASE else _verdict(method),
        texts=_exactness(method.speed.same),
        accuracy=scores.accuracy if scores else None,
        cost=_known(scores.seconds_per_correct) if scores else None,
        memory=method.health.peak_memory,
        tokens_per_second=_known(method.speed.tokens_per_second),
        mat=_known(method.speed.mat),
        badges=tuple(_badges(method)),
    )


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def _exactness(same: Sameness | None) -> str:
    if same is None or not same.compared:
        return ""
    return "exact" if same.is_exact else f"{same.equal} of {same.compared}"


def _badges(method: MethodResult) -> list[Badge]:
    speed, health = method.speed, method.health
    badges = []
    if speed.doubt:
        badges.append(Badge("not believed", speed.doubt))
    if speed.verdict and speed.verdict.outcome == "too few questions":
        detail = f"{speed.questions} questions allow no verdict: they could agree by chance"
        badges.append(Badge("few questions", detail))
    if health.failed:
        detail = f"{health.failed} of {health.generations} generations failed"
        badges.append(Badge(f"{health.failed} failed", detail))
    if health.cut:
        detail = f"{health.cut} of {health.generations} generations ended at the token budget"
        badges.append(Badge(f"{health.cut} cut", detail))
    if health.looping:
        detail = (
            f"{health.looping} of {health.generations} texts end in a loop, which is copied easily"
        )
        badges.append(Badge(f"{health.looping} looping", detail))
    if speed.step and not speed.step.is_in_turn and method.name != BASE:
        detail = "run in a process of its own, before or after vanilla"
        badges.append(Badge("not in turn", detail))
    return badges
