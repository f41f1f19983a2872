"""Tables of replays: acceptance with its bounds, its price, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.analysis.acceptance import Tally
from evaluation.analysis.bounds import CONTEXTS
from evaluation.analysis.metrics import NAN
from evaluation.analysis.price import Costs
from evaluation.analysis.redundancy import MATCHES
from evaluation.analysis.replay_summary import MethodSummary, ReplaySummary
from evaluation.analysis.replays import PLACES, SPLITS, Steps, mat, price
from evaluation.analysis.results import SettingResult
from evaluation.records.runs import Setting
from evaluation.report import topics
from evaluation.report.formatting import UNKNOWN, Table, number, percent, with_interval

GROUPS = {
    "categories": "source",
    "samples": "sample",
    "rounds": "round",
    "phases": "phase",
    "tenths": "tenth of the output",
    "places": "output position, from",
    "matches": "longest earlier match, from",
}
"""Groups of steps that are tabulated, and what their columns are."""
MOST_COLUMNS = 12


def of_replay(summary: ReplaySummary, costs: Costs | None) -> list[Table]:
    """Everything tabulated of a replay; tables without a column are left out."""
    tables = [acceptance(summary, costs), bounds(summary)]
    for group, what in GROUPS.items():
        tables.append(grouped(summary, group, what))
    return [table for table in tables if table.rows]


def acceptance(summary: ReplaySummary, costs: Costs | None) -> Table:
    """MAT of every method with its interval, splits, share of the bounds, and price."""
    header = [
        "method",
        "scope",
        "nodes",
        "questions",
        "MAT [95 %]",
        *SPLITS,
        "drafted",
        "accepted",
        "of the copy bound",
        "of the combination",
        "draft (us/step)",
    ]
    if costs:
        header += ["predicted speed-up [95 %]", "at ideal lengths"]
    rows = [_acceptance_row(name, of, summary, costs) for name, of in summary.methods.items()]
    return Table("Acceptance on recorded texts", header, rows, topics.REPLAY)


def _acceptance_row(
    name: str, method: MethodSummary, summary: ReplaySummary, costs: Costs | None
) -> list[str]:
    questions = method.tally.of_questions()
    found = mat(questions)
    steps = found.steps
    drafted = steps.nodes / max(1, steps.steps)
    row = [
        name,
        method.scope,
        str(method.nodes),
        str(found.questions),
        _interval(found.mean, found.low, found.high),
        *(number(Steps.sum_of(method.tally.of_questions(split)).mat) for split in SPLITS),
        number(drafted, 1),
        percent((found.mean - 1) / drafted) if drafted else UNKNOWN,
        percent(_of_bound(found.mean, bound_of(summary, method.scope))),
        percent(_of_bound(found.mean, combined_mat(summary))),
        number(1e6 * steps.seconds / max(1, steps.steps), 0),
    ]
    if costs:
        row.append(_interval(*price(questions, costs.of)))
        row.append(number(price(questions, costs.of_ideal)[0]))
    return row


def _interval(value: float, low: float, high: float) -> str:
    if low != low:
        return number(value)
    return f"{number(value, 3)} [{number(low)}, {number(high)}]"


def bound_of(summary: ReplaySummary, scope: str) -> float:
    """MAT of always copying the best occurrence in a memory of this scope; NaN if not known."""
    bound = summary.bound(scope)
    return bound.mat if bound else NAN


def combined_mat(summary: ReplaySummary) -> float:
    """MAT of the best of all methods at every step; NaN if not known."""
    return Steps.sum_of(summary.combination.values()).mat


def _of_bound(value: float, bound: float) -> float:
    """Share of the drafted tokens that the bound accepts."""
    return (value - 1) / (bound - 1) if bound > 1 else NAN


def beside_measured(
    summary: ReplaySummary,
    costs: Costs | None,
    settings: Sequence[tuple[Setting, SettingResult]],
) -> list[Table]:
    """Acceptance, and where costs are known predicted speed-ups, beside those of real runs of the
    same setting, ours or an engine's; none without any.
    """
    rows = []
    own = Setting(summary.paradigm, summary.temperature, summary.model)
    for setting, result in settings:
        if setting.alone != own:
            continue
        for measured in result.methods:
            method = summary.methods.get(measured.name)
            if method is None:
                continue
            predicted, interval = NAN, UNKNOWN
            if costs:
                predicted, low, high = price(method.tally.of_questions(), costs.of)
                interval = _interval(predicted, low, high)
            steps = mat(method.tally.of_questions()).steps
            up = measured.speed.speed_up
            rows.append(
                [
                    measured.name,
                    number(steps.mat),
                    number(measured.speed.mat),
                    interval,
                    with_interval(up),
                    percent(predicted / up.ratio - 1) if up and costs else UNKNOWN,
                ]
            )
    header = ("method", "MAT replayed", "MAT measured", "predicted", "measured", "difference")
    return [Table("Replayed beside measured", header, rows, topics.REPLAY)] if rows else []


def bounds(summary: ReplaySummary) -> Table:
    """Shares of positions that a context of k tokens finds, and the MAT of the best copy."""
    rows = []
    for scope, bound in summary.bounds.items():
        shares = [percent(share) for share in bound.shares()]
        rows.append([f"copying, {scope}", number(bound.mat), *shares])
    if summary.combination:
        unknown = [UNKNOWN] * len(CONTEXTS)
        rows.append(["best of the methods", number(combined_mat(summary)), *unknown])
    columns = [f"k = {k}" for k in CONTEXTS]
    return Table("Bounds", ("bound", "MAT", *columns), rows, topics.REPLAY)


def grouped(summary: ReplaySummary, group: str, what: str) -> Table:
    """MAT by a property of the step; none where there is one group only."""
    names: dict[str, None] = {}
    for method in summary.methods.values():
        names |= dict.fromkeys(method.tally.groups.get(group, {}))
    ordered = sorted(names, key=_numbers_first)[:MOST_COLUMNS]
    title = f"MAT by {what.removesuffix(', from')}"
    if len(ordered) < 2:
        return Table(title, (), [])
    rows = []
    for name, method in summary.methods.items():
        tallies = method.tally.groups.get(group, {})
        rows.append([name, *(number(_mat(tallies.get(label))) for label in ordered)])
    columns = [_column(label, group) for label in ordered]
    return Table(title, (f"method \\ {what}", *columns), rows, topics.REPLAY)


def _column(label: str, group: str) -> str:
    starts: Sequence[int] = {"places": PLACES, "matches": MATCHES}.get(group, ())
    return f"{label}+" if starts and int(label) == starts[-1] else label


def _mat(tally: Tally | None) -> float | None:
    return tally.mat if tally else None


def _numbers_first(label: str) -> tuple[int, str]:
    return (int(label), "") if label.isdigit() else (1 << 60, label)
