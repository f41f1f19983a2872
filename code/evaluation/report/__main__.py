"""Write the report of a folder of runs, or of several.

    python -m evaluation.report DIR ... [--out DIR/report] [--figures DIR]

One self-contained page (report.html), every table as Markdown or LaTeX, and entries.json: what the
page shows, without texts. Entries that other machines exported can be given in place of folders, so
that one page compares all of them. --figures writes what a paper takes: PDF, SVG, LaTeX.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from evaluation.analysis.answer import SettingAnswer, answer
from evaluation.analysis.comparison import Comparison, gather_several
from evaluation.analysis.curve import CostCurve, read_curve
from evaluation.analysis.price import Costs, built_in, read_costs
from evaluation.analysis.replay_summary import FoundReplay, find_replays
from evaluation.analysis.results import SettingResult, setting_result
from evaluation.analysis.scores_file import Scores, mean_scores
from evaluation.analysis.together import Point, points_of
from evaluation.command import Parser, add_quiet_flag, print_notices, run_command, summary
from evaluation.records.audits import find_audits
from evaluation.records.writer import write_atomically
from evaluation.report import answers, definitions, entries, making, page, tables, viewer
from evaluation.report.entries import Entry, Export, methods_in_order, read_export, told_apart
from evaluation.report.formatting import FORMATS
from model.errors import UserError, printable

MOST_ANSWERS = 7
"""Settings whose answer is printed."""
SUFFIX = {"plain": "txt", "markdown": "md", "latex": "tex"}


@dataclass(frozen=True)
class Found:
    """What lies in the folders, analysed."""

    comparisons: list[Comparison]
    results: list[SettingResult]
    answers: list[SettingAnswer]
    scores: list[dict[str, Scores]]
    """By setting and method, repeats averaged."""
    replays: list[FoundReplay]
    points: list[Point]
    curve: CostCurve | None

    @property
    def accuracy(self) -> list[dict[str, float]]:
        """By setting and method."""
        found = []
        for of_setting in self.scores:
            found.append({name: scores.accuracy for name, scores in of_setting.items()})
        return found

    @property
    def methods(self) -> list[str]:
        """All of them, in the page's order."""
        names: list[str] = []
        for replay in self.replays:
            names += replay.summary.methods
        for result in self.results:
            names += [method.name for method in result.methods]
        return methods_in_order(self.answers, names)


def find(folders: Sequence[Path], notices: list[str]) -> Found:
    """Raises UserError where there is nothing to report on."""
    replays = [replay for folder in folders for replay in find_replays(folder)]
    gathered = gather_several(folders, notices, may_be_empty=bool(replays))
    comparisons = [c for c in gathered if any(method.records for method in c.methods)]
    if not comparisons and not replays:
        raise UserError(f"{folders[0]} holds no finished generation yet")
    curve = read_curve(folders[0], comparisons, notices)
    results = [setting_result(comparison, curve) for comparison in comparisons]
    scores = [_scores(comparison, notices) for comparison in comparisons]
    if comparisons and not any(scores):
        notices.append("no accuracy yet: python -m evaluation.score DIR")
    _note_doubts(results, notices)
    return Found(
        comparisons=comparisons,
        results=results,
        answers=[answer(r, s) for r, s in zip(results, scores, strict=True)],
        scores=scores,
        replays=replays,
        points=points_of(comparisons, []),  # damaged scores are said already
        curve=curve,
    )


def _scores(comparison: Comparison, notices: list[str]) -> dict[str, Scores]:
    scores = {}
    for method in comparison.methods:
        if found := mean_scores(method.runs, notices):
            scores[method.name] = found
    return scores


def _note_doubts(results: Sequence[SettingResult], notices: list[str]) -> None:
    for result in results:
        if result.redundancy.is_partial:
            notices.append(
                f"{result.title}: redundancy is that of the first"
                f" {result.redundancy.questions} questions"
            )
        speeds = [method.speed for method in result.methods]
        notices += [f"{result.title}: {line}" for line in tables.doubts(speeds)]


def entries_of(found: Found, folders: Sequence[Path], costs: Costs | None) -> list[Entry]:
    """Everything the page shows of them."""
    methods = found.methods
    made = []
    settings = []
    for setting in zip(
        found.results, found.comparisons, found.answers, found.accuracy, strict=True
    ):
        made.append(making.of_setting(*setting, methods))
        settings.append((setting[1].setting, setting[0]))
    for replay in found.replays:
        made.append(making.of_replay(replay.summary, costs, settings, methods))
    made += making.of_points(found.points, methods)
    for folder in folders:
        made += [making.of_audit(audit) for audit in find_audits(folder)]
    if found.curve:
        made.append(making.of_curve(found.curve))
    return made


def explained(found: Found, costs: Costs | None) -> str:
    """The definitions of what is shown."""
    without_noise = [result.title for result in found.results if not result.noise]
    text = definitions.of_report(found.curve is not None, without_noise, bool(found.replays))
    if costs and found.replays:
        text += f"\npredicted of replays with {costs.title}"
    return text


def tables_file(export: Export, form: str) -> str:
    """Every table as text in one of FORMATS, the definitions below."""
    parts = []
    for entry in export.entries:
        for table in entry.tables:
            parts.append(_heading(f"{entry.title}: {table.title}", form))
            parts.append(table.text(form))
    parts.append(_verbatim(export.definitions, form))
    return "\n\n".join(parts) + "\n"


def _heading(text: str, form: str) -> str:
    text = printable(text)
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


def _joined(own: Export | None, others: Sequence[Export]) -> Export:
    """One export of all."""
    parts = ([own] if own else []) + list(others)
    if len(parts) == 1:
        return parts[0]
    titles = dict.fromkeys(part.title.removeprefix("SpecTTS-Bench: ") for part in parts)
    return Export(
        title=f"SpecTTS-Bench: {', '.join(titles)}",
        subtitle=" | ".join(dict.fromkeys(part.subtitle for part in parts)),
        entries=tuple(told_apart(list(chain.from_iterable(part.entries for part in parts)))),
        notices=tuple(dict.fromkeys(chain.from_iterable(part.notices for part in parts))),
        definitions="\n\n".join(dict.fromkeys(part.definitions for part in parts)),
    )


def _new_titles(own: Export, joined: Export) -> dict[str, str]:
    """What entries are called beside those of other machines."""
    pairs = zip(own.entries, joined.entries, strict=False)  # its own stand first
    return {before.title: after.title for before, after in pairs}


def _arguments() -> argparse.Namespace:
    parser = Parser(description=summary(__doc__))
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help=f"folders with records below them, or {entries.FILE} of other reports",
    )
    parser.add_argument(
        "--out", type=Path, help="where the report goes; default report/ in the first DIR"
    )
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="also write figures (PDF, SVG) and tables (LaTeX) for a paper into this folder",
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
    add_quiet_flag(parser)
    args = parser.parse_args()
    for folder in args.folders:
        if not folder.is_dir() and folder.suffix != ".json":
            raise UserError(f"{folder} is not a folder, nor the {entries.FILE} of a report")
    if len({folder.resolve() for folder in args.folders}) < len(args.folders):
        raise UserError("a folder is given twice; give each one once")
    if args.figures and not any(folder.is_dir() for folder in args.folders):
        raise UserError("--figures needs a folder of records: exported entries hold no records")
    return args


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None


def _write_for_paper(found: Found, export: Export, out: Path) -> None:
    from evaluation.report import paper  # matplotlib takes a second to load

    _make_folder(out)
    titles = [result.title for result in found.results]
    accuracy = [pair for pair in zip(titles, found.accuracy, strict=True) if pair[1]]
    replays = [replay.summary for replay in found.replays]
    paper.write_figures(found.results, accuracy, replays, found.points, out)
    paper.write_tables(export.entries, export.definitions, out)


def main() -> int:
    args = _arguments()
    folders = [path for path in args.folders if path.is_dir()]
    others = [read_export(path) for path in args.folders if not path.is_dir()]
    first = args.folders[0]
    out = args.out or (first if first.is_dir() else first.parent) / "report"
    notices: list[str] = []
    own: Export | None = None
    traces: dict[str, Any] = viewer.NOTHING
    if folders:
        found = find(folders, notices)
        costs = read_costs(args.costs, with_host=True) if args.costs else None
        if found.curve and not costs:
            costs = Costs(found.curve, "calibration.json")
        made = entries_of(found, folders, costs)
        traces = viewer.build(found.comparisons, found.replays, notices)
        title = _title(found.comparisons, folders[0])
        subtitle = answers.subtitle(found.comparisons)
        text = explained(found, costs)
        own = Export(title, subtitle, tuple(made), tuple(notices), text)
    export = _joined(own, others)
    if own:
        traces = viewer.renamed(traces, _new_titles(own, export))
    _make_folder(out)
    write_atomically(out / "report.html", page.render(export, traces))
    export.write(out / entries.FILE)
    write_atomically(out / f"tables.{SUFFIX[args.format]}", tables_file(export, args.format))
    if own and args.figures:
        _write_for_paper(found, own, args.figures)
    if not args.quiet:
        print_notices(notices)
    for line in final_lines(export, args.quiet):
        print(printable(line))
    print(f"report: {out / 'report.html'}")
    return 0


def final_lines(export: Export, notes_unsaid: bool) -> list[str]:
    """The answers, in at most MOST_ANSWERS + 2 lines."""
    answered = [entry.answer for entry in export.entries if entry.answer]
    lines = [f"{made.title}: {made.sentence}" for made in answered[:MOST_ANSWERS]]
    if len(answered) > MOST_ANSWERS:
        lines.append(f"{len(answered) - MOST_ANSWERS} more settings on the page")
    if export.notices and notes_unsaid:
        count = len(export.notices)
        lines.append(f"{count} note{'s' * (count > 1)} on these runs: on the page")
    return lines


if __name__ == "__main__":
    run_command(main)()
