"""Entries of the page, made from analysis' results: runs, replays, samples together, audits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.analysis.answer import SettingAnswer
from evaluation.analysis.comparison import Comparison
from evaluation.analysis.curve import CostCurve
from evaluation.analysis.price import Costs
from evaluation.analysis.replay_summary import ReplaySummary
from evaluation.analysis.results import SettingResult
from evaluation.analysis.together import Point, conclusions, has_several
from evaluation.records.audits import AuditFile
from evaluation.records.manifest import Manifest
from evaluation.records.runs import Setting
from evaluation.report import replay_charts, replay_tables, run_charts, tables, together, topics
from evaluation.report.entries import Entry
from evaluation.report.formatting import Table

MACHINE = "This machine"
AUDIT_HEADER = ("check", "verdict", "found")
SETTINGS = (
    *("engine", "dtype", "seed", "max_new_tokens", "thinking_budget", "max_nodes"),
    *("num_choices", "sampling_top_k", "sampling_top_p", "parallel", "bench", "question_file"),
)
"""Of a manifest's settings those that every run of a setting shares."""


def of_setting(
    result: SettingResult,
    comparison: Comparison,
    answer: SettingAnswer,
    accuracy: Mapping[str, float],
    methods: Sequence[str],
) -> Entry:
    """Of runs, ours or an engine's; `methods` are the page's, in its order."""
    charts = run_charts.of_setting(result, methods)
    if accuracy:
        charts.append(run_charts.accuracy(accuracy, methods))
    return Entry(
        title=result.title,
        facets=facets(comparison),
        answer=answer,
        charts=tuple(charts),
        tables=(*tables.of_setting(result), how_it_was_run(comparison)),
    )


def facets(comparison: Comparison) -> dict[str, str]:
    """What this setting can be chosen by."""
    manifest = comparison.reference.manifest
    is_of_engine = any(record.is_of_engine for record in comparison.reference.all_records)
    setting = comparison.setting
    return {
        "model": manifest.model_name,
        "machine": str(manifest.device or ""),
        "setting": f"{setting.paradigm}, T = {setting.temperature:g}",
        "together": str(setting.together),
        "origin": "engine" if is_of_engine else "run",
        "date": str(manifest.data.get("started") or "")[:10],
    }


def how_it_was_run(comparison: Comparison) -> Table:
    """Machine, versions and settings, then every method's command."""
    reference = comparison.reference.manifest
    rows = [[what, text] for what, text in _circumstances(reference) if text]
    for method in comparison.methods:
        arguments = method.manifest.data.get("arguments")
        if isinstance(arguments, list):
            rows.append([f"command of {method.name}", " ".join(map(str, arguments))])
    return Table("How it was run", ("what", "value"), rows, topics.HOW)


def _circumstances(manifest: Manifest) -> list[tuple[str, str]]:
    data = manifest.data
    git: dict[str, Any] = data.get("git") or {}
    commit = str(git.get("commit") or "")[:12]
    known = [
        ("model", manifest.model_name),
        ("model fingerprint", manifest.model_fingerprint),
        ("machine", str(manifest.device or "")),
        ("threads", str(manifest.threads or "")),
        ("attention", str(data.get("attention") or "")),
        ("started", str(data.get("started") or "")),
        ("commit", commit + (" (changed)" if git.get("dirty") else "")),
        ("versions", ", ".join(f"{k} {v}" for k, v in (data.get("versions") or {}).items())),
        ("questions", str(manifest.questions or "")),
    ]
    for name in SETTINGS:
        value = manifest.settings.get(name)
        known.append((name.replace("_", " "), "" if value is None else str(value)))
    return known


def of_replay(
    summary: ReplaySummary,
    costs: Costs | None,
    settings: Sequence[tuple[Setting, SettingResult]],
    methods: Sequence[str],
) -> Entry:
    """Of recorded texts; `settings` are the real runs to set beside it."""
    beside = replay_tables.beside_measured(summary, costs, settings)
    return Entry(
        title=summary.title,
        facets={
            "setting": f"{summary.paradigm}, T = {summary.temperature:g}",
            "origin": "replay",
        },
        charts=tuple(replay_charts.of_replay(summary, methods)),
        tables=(*replay_tables.of_replay(summary, costs), *beside),
    )


def of_points(points: Sequence[Point], methods: Sequence[str]) -> list[Entry]:
    """Of every setting that several numbers of samples together were run of."""
    entries = []
    for setting in dict.fromkeys(point.setting for point in points):
        own = [point for point in points if point.setting == setting]
        if not has_several(own):
            continue
        told = "; ".join(conclusions(own))
        title = f"against samples together ({told})" if told else "against samples together"
        charts = [together.chart(own, what, methods) for what in together.drawable(own)]
        entry = Entry(
            title=f"{setting}, any number together",
            facets={"origin": "run"},
            charts=tuple(charts),
            tables=(together.table(title, own),),
        )
        entries.append(entry)
    return entries


def of_audit(audit: AuditFile) -> Entry:
    """Of a server's texts."""
    rows = [list(line) for line in audit.lines]
    table = Table("verdicts", AUDIT_HEADER, rows, topics.RIGHT)
    return Entry(audit.title, {"origin": "engine"}, tables=(table,))


def of_curve(curve: CostCurve) -> Entry:
    """Of the machine."""
    return Entry(MACHINE, {"machine": str(curve.device or "")}, tables=(tables.cost_curve(curve),))
