"""Every table: analysis' results as rounded text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from evaluation.analysis import redundancy as redundant
from evaluation.analysis.acceptance import Tally
from evaluation.analysis.curve import CostCurve
from evaluation.analysis.metrics import SpeedUp
from evaluation.analysis.redundancy import Redundancy
from evaluation.analysis.results import PHASES, MethodResult, SettingResult, SpeedResult
from evaluation.analysis.sameness import Sameness
from evaluation.analysis.scoring import ScoreResult
from evaluation.analysis.serving import Spread
from evaluation.analysis.verdicts import PairVerdict
from evaluation.report import topics
from evaluation.report.formatting import UNKNOWN, Table, number, percent, with_interval

SPEED_HEADER = (
    "method",
    "n",
    "tokens/s",
    "speed-up [95 %]",
    "as timed",
    "noise",
    "verdict",
    "texts",
    "MAT",
    "drafted",
    "cost (steps)",
    "draft",
    "verify",
    "rest",
    "scope",
    "timed",
    "failed",
    "cut",
)
SCORE_HEADER = (
    "method",
    "n",
    "accuracy",
    "as vanilla",
    "by round",
    "by sample",
    "pass@k",
    "vote",
    "tokens",
    "s / correct",
    "tokens / correct",
    "unscorable",
    "failed",
)


# --- of commands ----------------------------------------------------------------------------------
def speed(title: str, results: Iterable[SpeedResult]) -> Table:
    """The speed table of one setting."""
    return Table(title, SPEED_HEADER, [_speed_row(result) for result in results])


def _speed_row(result: SpeedResult) -> list[str]:
    up, step = result.speed_up, result.step
    row = [
        result.method,
        str(result.questions),
        number(result.tokens_per_second, 1),
        with_interval(up),
        as_timed(up),
        noise(up),
        against_vanilla(result),
        sameness(result.same),
        number(result.mat),
    ]
    if step is None:
        return row + [UNKNOWN] * (len(SPEED_HEADER) - len(row))
    return [
        *row,
        number(step.drafted, 1),
        number(result.cost),
        percent(step.draft),
        percent(step.verify),
        percent(step.rest),
        step.scope,
        "in turn" if step.is_in_turn else "alone",
        str(step.failed),
        str(step.cut),
    ]


def as_timed(up: SpeedUp | None) -> str:
    """The speed-up without correction, where there was one."""
    return number(up.timed if up else None)


def noise(up: SpeedUp | None) -> str:
    """The noise floor; a dash where no control was recorded."""
    return UNKNOWN if up is None or up.noise is None else f"{100 * up.noise:.1f} %"


def against_vanilla(result: SpeedResult) -> str:
    """The verdict of the method against vanilla."""
    if result.doubt:
        return "refused"
    return result.verdict.against_b if result.verdict else UNKNOWN


def doubts(results: Iterable[SpeedResult]) -> list[str]:
    """A line for every row whose figures are not believed."""
    lines = []
    for result in results:
        if result.doubt:
            lines.append(f"{result.method}: no verdict: {result.doubt}")
    return lines


def scores(title: str, results: Iterable[ScoreResult]) -> Table:
    """The score table of one setting."""
    return Table(title, SCORE_HEADER, [_score_row(result) for result in results])


def _score_row(result: ScoreResult) -> list[str]:
    passed, vote = UNKNOWN, UNKNOWN
    if len(result.samples) > 1:
        passed = f"{percent(result.pass_at_k)} (k={result.k})"
        vote = percent(result.vote)
    return [
        result.method,
        str(result.n),
        percent(result.accuracy),
        sameness(result.same_as_vanilla),
        _several(result.rounds),
        _several(result.samples),
        passed,
        vote,
        number(result.tokens, 0),
        number(result.seconds_per_correct, 1),
        number(result.tokens_per_correct, 0),
        str(result.unscorable),
        str(result.failed),
    ]


def sameness(same: Sameness | None) -> str:
    """`exact`, or `7 of 8` texts; a dash without a vanilla run."""
    if same is None or not same.compared:
        return UNKNOWN
    return "exact" if same.is_exact else f"NOT EXACT: {same.equal} of {same.compared}"


def _several(shares: Mapping[int, float]) -> str:
    """`62 58 60 %`; a dash where there is only one."""
    if len(shares) < 2:
        return UNKNOWN
    numbers = [percent(share).removesuffix(" %") for share in shares.values()]
    return f"{' '.join(numbers)} %"


def redundancy(result: Redundancy) -> list[Table]:
    """Recurrence of n-grams and longest earlier matches."""
    recurrences = []
    for n, share in result.recurrence.items():
        shares = (share.same_text, share.other_samples, share.earlier_rounds, share.anywhere)
        recurrences.append([f"{n} tokens", *map(percent, shares)])
    matches = [
        ["same text", *map(percent, result.matches.same_text)],
        ["whole question", *map(percent, result.matches.whole_question)],
    ]
    header = ("n-grams of", "same text", "other samples", "earlier rounds", "any")
    of_matches = ("within the", *match_labels())
    return [
        Table("Recurrence of n-grams", header, recurrences, topics.TEXTS),
        Table("Longest earlier match, share of tokens", of_matches, matches, topics.TEXTS),
    ]


def match_labels() -> list[str]:
    """Of the match histogram's bins, in tokens: `0`, `1`, `2-3`, ..., `64+`."""
    labels = []
    for low, high in itertools.pairwise(redundant.MATCHES):
        labels.append(str(low) if high == low + 1 else f"{low}-{high - 1}")
    return [*labels, f"{redundant.MATCHES[-1]}+"]


def cost_curve(curve: CostCurve) -> Table:
    """Milliseconds of verifying n nodes at every context, in vanilla steps, and the roofline."""
    rows = []
    for context, seconds in curve.contexts.items():
        cells = [f"{1e3 * s:.2f} ({number(s / seconds[0])})" for s in seconds]
        share = curve.roofline.get(context)
        rows.append([context, *cells, UNKNOWN if share is None else percent(share)])
    columns = [f"n = {n}, ms (steps)" for n in curve.nodes]
    header = ("context (tokens)", *columns, "vanilla, of the roofline")
    return Table("Cost of verifying n nodes", header, rows, topics.WHY)


# --- of the report --------------------------------------------------------------------------------
def of_setting(result: SettingResult) -> list[Table]:
    """Everything tabulated for a setting; tables without a row are left out."""
    tables = [
        speed_and_cost(result),
        health_and_memory(result),
        acceptance(result),
        generations(result),
        positions(result),
        time(result),
        serving(result),
        verdicts(result),
        *redundancy(result.redundancy),
    ]
    return [table for table in tables if table.rows]


def serving(result: SettingResult) -> Table:
    """Of engines: what requests took. No rows for runs of ours."""
    rows = []
    for method in result.methods:
        served = method.serving
        if served is None:
            continue
        rows.append(
            [
                method.name,
                str(served.requests),
                str(served.in_flight),
                _milliseconds(served.first_token),
                _milliseconds(served.per_token),
                _seconds(served.latency),
                str(served.retries),
            ]
        )
    header = (
        "method",
        "requests",
        "in flight",
        "first token (ms)",
        "each further token (ms)",
        "whole reply (s)",
        "retries",
    )
    return Table("Requests: median (95th percentile)", header, rows, topics.WHY)


def _milliseconds(spread: Spread | None) -> str:
    if spread is None:
        return UNKNOWN
    return f"{1e3 * spread.median:.1f} ({1e3 * spread.tail:.1f})"


def _seconds(spread: Spread | None) -> str:
    return UNKNOWN if spread is None else f"{spread.median:.2f} ({spread.tail:.2f})"


def speed_and_cost(result: SettingResult) -> Table:
    """Speed, acceptance and cost of every method."""
    header = (
        "method",
        "questions",
        "repeats",
        "tokens/s",
        "speed-up [95 %]",
        "as timed",
        "mean of ratios",
        "noise",
        "verdict",
        "texts",
        "MAT (tokens/step)",
        "drafted (nodes/step)",
        "cost (vanilla steps)",
        "predicted speed-up",
        "memory scope",
    )
    rows = [_speed_and_cost_row(method) for method in result.methods]
    return Table("Speed, acceptance, cost", header, rows, topics.SPEED)


def _speed_and_cost_row(method: MethodResult) -> list[str]:
    result, step = method.speed, method.speed.step
    return [
        method.name,
        str(result.questions),
        str(method.repeats),
        number(result.tokens_per_second, 1),
        with_interval(result.speed_up),
        as_timed(result.speed_up),
        number(result.speed_up.mean if result.speed_up else None),
        noise(result.speed_up),
        against_vanilla(result),
        sameness(result.same),
        number(result.mat),
        number(step.drafted if step else None, 1),
        number(result.cost),
        number(method.predicted),
        step.scope if step else UNKNOWN,
    ]


def health_and_memory(result: SettingResult) -> Table:
    """Generations cut, looping, failed; speed-ups without them; memory and energy."""
    rows = []
    for method in result.methods:
        health = method.health
        rows.append(
            [
                method.name,
                str(health.generations),
                str(health.cut),
                str(health.looping),
                str(health.failed),
                with_interval(health.usual_speed_up),
                str(health.usual_questions),
                number(health.peak_memory / 1e9),
                number(health.energy_per_token, 3),
            ]
        )
    header = (
        "method",
        "generations",
        "cut",
        "looping",
        "failed",
        "speed-up without cut or looping [95 %]",
        "on questions",
        "peak memory (GB)",
        "energy (J/token)",
    )
    return Table("Health, memory, energy", header, rows, topics.RIGHT)


def acceptance(result: SettingResult) -> Table:
    """MAT by phase, by thirds of the output, and by who drafted."""
    rows = []
    for method in result.methods:
        accepted = method.acceptance
        thinking, answer = accepted.phases.get("thinking"), accepted.phases.get("answer")
        rows.append(
            [
                method.name,
                number(thinking.mat if thinking else None),
                number(answer.mat if answer else None),
                *(number(third.mat) for third in accepted.thirds),
                _drafters(accepted.sources),
            ]
        )
    header = ("method", "thinking", "answer", "first third", "second", "last", "by who drafted")
    return Table("Acceptance (mean accepted tokens)", header, rows, topics.WHY)


def _drafters(sources: Mapping[str, Tally]) -> str:
    steps = max(1, sum(tally.steps for tally in sources.values()))
    parts = []
    for name, tally in sources.items():
        parts.append(f"{name} {tally.mat:.2f} ({percent(tally.steps / steps)} of steps)")
    return "; ".join(parts)


def generations(result: SettingResult) -> Table:
    """MAT of every round or sample."""
    numbers: set[int] = set()
    for method in result.methods:
        numbers |= set(method.acceptance.generations)
    rows = []
    for method in result.methods:
        tallies = method.acceptance.generations
        cells = [number(tallies[n].mat if n in tallies else None) for n in sorted(numbers)]
        rows.append([method.name, *cells])
    columns = [f"{result.numbered} {n + 1}" for n in sorted(numbers)]
    title = "Acceptance by round or sample (mean accepted tokens)"
    return Table(title, ("method", *columns), rows, topics.WHERE)


def positions(result: SettingResult, most: int = 12) -> Table:
    """Share of drafts of at least d nodes that were accepted up to position d."""
    rates = {m.name: m.acceptance.positions[:most] for m in result.methods}
    deepest = max((len(shares) for shares in rates.values()), default=0)
    rows = []
    for name, shares in rates.items():
        if shares:
            missing = [UNKNOWN] * (deepest - len(shares))
            rows.append([name, *map(percent, shares), *missing])
    columns = [f"d = {depth + 1}" for depth in range(deepest)]
    return Table("Acceptance by draft position", ("method", *columns), rows, topics.WHERE)


def time(result: SettingResult) -> Table:
    """Milliseconds a step and seconds in total, by phase."""
    per_step = ("draft", "verify", "accept", "other")
    rows = []
    for method in result.methods:
        spent = method.time
        milliseconds = [number(spent.per_step(phase), 3) for phase in per_step]
        seconds = [number(spent.seconds[phase], 1) for phase in PHASES]
        rows.append([method.name, *milliseconds, *seconds, number(spent.wall, 1)])
    header = (
        "method",
        *(f"{phase} (ms/step)" for phase in per_step),
        *(f"{phase} (s)" for phase in PHASES),
        "total (s)",
    )
    return Table("Time", header, rows, topics.WHY)


def verdicts(result: SettingResult) -> Table:
    """Every pair of methods, vanilla against itself first."""
    rows = [_verdict_row(pair, "the noise") for pair in result.noise]
    rows += [_verdict_row(pair, verdict_text(pair)) for pair in result.pairs]
    header = ("a", "b", "a / b [95 %]", "verdict", "could show")
    return Table("Which is faster", header, rows, topics.SPEED)


def _verdict_row(pair: PairVerdict, verdict: str) -> Sequence[str]:
    bounds = f"[{number(pair.low)}, {number(pair.high)}]"
    ratio = f"{number(pair.ratio)} {bounds}"
    return [pair.a, pair.b, ratio, verdict, percent(pair.could_show)]


def verdict_text(pair: PairVerdict) -> str:
    """A verdict in words."""
    if pair.winner:
        return f"{pair.winner} faster"
    if pair.outcome == "too few questions":
        return f"too few questions ({pair.questions})"
    return pair.outcome
