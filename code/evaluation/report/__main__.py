"""Write the report of a folder of runs, or of several.

    python -m evaluation.report DIR ... [--out DIR/report]

One self-contained page (report.html), the figures as PNG and SVG, and every table as Markdown or
LaTeX.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from evaluation.analysis.comparison import Comparison, gather_several
from evaluation.analysis.curve import CostCurve, read_curve
from evaluation.analysis.price import Costs, built_in, read_costs
from evaluation.analysis.replay_summary import ReplaySummary, find_replays
from evaluation.analysis.results import SettingResult, setting_result
from evaluation.analysis.scores_file import mean_scores
from evaluation.analysis.together import Point, conclusions, has_several, points_of
from evaluation.command import Parser, print_notices, run_command, summary
from evaluation.records.audits import find_audits
from evaluation.records.runs import Setting
from evaluation.records.writer import write_atomically
from evaluation.report import (
    answers,
    definitions,
    figures,
    page,
    replay_figures,
    replay_tables,
    tables,
    together,
    viewer,
)
from evaluation.report.formatting import FORMATS, Table
from model.errors import UserError

SUFFIX = {"plain": "txt", "markdown": "md", "latex": "tex"}
FEWEST_SPOKES = 3
MACHINE = "This machine"
AUDIT_HEADER = ("check", "verdict", "found")
REPLAY_FIGURES: dict[str, Callable[[Sequence[ReplaySummary]], Figure]] = {
    "replay_mat": replay_figures.bounded_mat,
    "replay_nodes": replay_figures.mat_against_nodes,
    "replay_samples": replay_figures.by_sample,
    "replay_places": replay_figures.along_the_thought,
}


def read_accuracy(
    comparisons: Sequence[Comparison], notices: list[str]
) -> list[tuple[str, dict[str, float]]]:
    """(title, accuracy by method, repeats averaged) of every setting that was scored."""
    settings = []
    for comparison in comparisons:
        by_method = {}
        for method in comparison.methods:
            if scores := mean_scores(method.runs, notices):
                by_method[method.name] = scores.accuracy
        if by_method:
            settings.append((comparison.title, by_method))
    if not settings:
        notices.append("no accuracy yet: python -m evaluation.score DIR")
    return settings


def draw(
    results: Sequence[SettingResult],
    accuracy: Sequence[tuple[str, dict[str, float]]],
    replays: Sequence[ReplaySummary],
    out: Path,
    notices: list[str],
) -> dict[str, str]:
    """Every figure that can be drawn, as SVG by name; what cannot is said."""
    with_vanilla = [result for result in results if result.has_vanilla]
    with_spokes = [r for r in with_vanilla if len(r.methods[0].by_category) >= FEWEST_SPOKES]
    if with_vanilla and not with_spokes:
        notices.append("no radar plot: the questions have fewer than three categories")
    kinds: list[tuple[str, Callable[[Sequence[SettingResult]], Figure], list[SettingResult]]] = [
        ("speed", figures.speed, with_vanilla),
        ("cost", figures.mat_against_cost, with_vanilla),
        ("radar", figures.radar, with_spokes),
        ("position", figures.acceptance_by_position, list(results)),
        ("generation", figures.acceptance_by_generation, list(results)),
        ("time", figures.time_breakdown, list(results)),
        ("recurrence", figures.recurrence, list(results)),
        ("matches", figures.match_lengths, list(results)),
    ]
    drawn = {}
    for name, make, shown in kinds:
        if shown:
            drawn[name] = figures.save_both(make(shown), out, name)
    if accuracy:
        drawn["accuracy"] = figures.save_both(figures.accuracy(accuracy), out, "accuracy")
    if replays:
        for name, of_replays in REPLAY_FIGURES.items():
            drawn[name] = figures.save_both(of_replays(replays), out, name)
    return drawn


def draw_together(points: Sequence[Point], out: Path) -> dict[str, str]:
    """The same against samples decoded together, where there were several numbers of them."""
    if not has_several(points):
        return {}
    drawn = {}
    for what in together.drawable(points):
        name = f"parallel-{what}"
        drawn[name] = figures.save_both(together.figure(points, what), out, name)
    return drawn


def tables_together(points: Sequence[Point]) -> dict[str, list[Table]]:
    """A table a setting that several numbers of samples together were run of."""
    tabulated = {}
    for setting in dict.fromkeys(point.setting for point in points):
        own = [point for point in points if point.setting == setting]
        if has_several(own):
            lines = "; ".join(conclusions(own))
            title = f"against samples together ({lines})" if lines else "against samples together"
            tabulated[f"{setting}, any number together"] = [together.table(title, own)]
    return tabulated


def tables_file(tabulated: Mapping[str, Sequence[Table]], explained: str, form: str) -> str:
    """Every table as text in one of FORMATS, the definitions below."""
    parts = []
    for setting, of_setting in tabulated.items():
        for table in of_setting:
            parts.append(_heading(f"{setting}: {table.title}", form))
            parts.append(table.text(form))
    parts.append(_verbatim(explained, form))
    return "\n\n".join(parts) + "\n"


def _heading(text: str, form: str) -> str:
    if form == "latex":
        escaped = re.sub(r"([_%&#])", r"\\\1", text)
        return f"\\section*{{{escaped}}}"
    return f"## {text}" if form == "markdown" else text


def _verbatim(text: str, form: str) -> str:
    if form == "latex":
        return f"\\begin{{verbatim}}\n{text}\n\\end{{verbatim}}"
    return f"```\n{text}\n```" if form == "markdown" else text


def _title(comparisons: Sequence[Comparison], folder: Path) -> str:
    names: dict[str, None] = {}
    for comparison in comparisons:
        for method in comparison.methods:
            if method.manifest.model_name:
                names[method.manifest.model_name] = None
    return f"SpecTTS-Bench: {', '.join(names) or folder.name}"


def _arguments() -> argparse.Namespace:
    parser = Parser(description=summary(__doc__))
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folders with records below them"
    )
    parser.add_argument(
        "--out", type=Path, help="where the report goes; default report/ in the first DIR"
    )
    parser.add_argument(
        "--costs",
        metavar="FILE",
        help="what steps cost, for replays: of evaluation.calibrate, or built in:"
        f" {', '.join(built_in())}; default DIR/calibration.json",
    )
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default="markdown", help="of the tables file"
    )
    args = parser.parse_args()
    for folder in args.folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
    return args


def _costs(named: str | None, curve: CostCurve | None) -> Costs | None:
    """What replays are priced with: as named, else the folder's own curve."""
    if named:
        return read_costs(named, with_host=True)
    return Costs(curve, "calibration.json") if curve else None


def _settings(
    results: Sequence[SettingResult], comparisons: Sequence[Comparison]
) -> list[tuple[Setting, SettingResult]]:
    return [(c.setting, result) for c, result in zip(comparisons, results, strict=True)]


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None


def main() -> int:
    args = _arguments()
    first = args.folders[0]
    out = args.out or first / "report"
    notices: list[str] = []
    replays = [replay for folder in args.folders for replay in find_replays(folder)]
    gathered = gather_several(args.folders, notices, may_be_empty=bool(replays))
    comparisons = [c for c in gathered if any(method.records for method in c.methods)]
    if not comparisons and not replays:
        raise UserError(f"{first} holds no finished generation yet")
    _make_folder(out)

    curve = read_curve(first, comparisons, notices)
    results = [setting_result(comparison, curve) for comparison in comparisons]
    for result in results:
        if result.redundancy.is_partial:
            notices.append(
                f"{result.title}: redundancy is that of the first"
                f" {result.redundancy.questions} questions"
            )
        speeds = [method.speed for method in result.methods]
        notices += [f"{result.title}: {line}" for line in tables.doubts(speeds)]
    summaries = [replay.summary for replay in replays]
    accuracy = read_accuracy(comparisons, notices) if comparisons else []
    points = points_of(comparisons, notices)
    drawn = draw(results, accuracy, summaries, out, notices)
    drawn |= draw_together(points, out)
    traces = viewer.build(comparisons, replays, notices)
    answered = answers.shown(results, comparisons)
    tabulated = {result.title: tables.of_setting(result) for result in results}
    costs = _costs(args.costs, curve)
    settings = _settings(results, comparisons)
    for replay in summaries:
        measured = replay_tables.beside_measured(replay, costs, settings)
        tabulated[replay.title] = [*replay_tables.of_replay(replay, costs), *measured]
    tabulated |= tables_together(points)
    for folder in args.folders:
        for audit in find_audits(folder):
            tabulated[audit.title] = [Table("verdicts", AUDIT_HEADER, list(audit.lines))]
    if curve:
        tabulated[MACHINE] = [tables.cost_curve(curve)]
    without_noise = [result.title for result in results if not result.noise]
    explained = definitions.of_report(curve is not None, without_noise, bool(replays))
    if costs and replays:
        explained += f"\npredicted of replays with {costs.title}"
    title = _title(comparisons, first)
    html = page.render(
        title, answers.subtitle(comparisons), answered, tabulated, drawn, traces, notices, explained
    )
    write_atomically(out / "report.html", html)
    suffix = SUFFIX[args.format]
    write_atomically(out / f"tables.{suffix}", tables_file(tabulated, explained, args.format))
    print_notices(notices)
    print(f"report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    run_command(main)()
