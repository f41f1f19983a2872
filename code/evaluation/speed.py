"""The speed table: of two files as in the published benchmark, or of every run below a folder.

    python evaluation/speed.py --file-path METHOD.jsonl --base-path VANILLA.jsonl
    python evaluation/speed.py data/mini

Reads records only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from evaluation.running.interrupts import end_while_importing

    end_while_importing()

from evaluation.analysis import metrics
from evaluation.analysis.comparison import Comparison, MethodRuns, comparisons_of
from evaluation.analysis.results import SpeedResult, speed_result, traced_speed_result
from evaluation.command import Parser, add_quiet_flag, print_notices, run_command, summary
from evaluation.records.runs import (
    RunFile,
    Setting,
    check_comparable,
    find_runs,
    note_differences,
    read_run,
    unlike,
)
from evaluation.records.writer import write_atomically
from evaluation.report import definitions, tables
from evaluation.report.formatting import FORMATS
from model.errors import UserError


@dataclass
class Speeds:
    """The results of a command, and the (run, vanilla run) pairs they come from."""

    results: list[SpeedResult] = field(default_factory=list)
    pairs: list[tuple[RunFile, RunFile]] = field(default_factory=list)

    def by_title(self) -> dict[str, list[SpeedResult]]:
        """One group a setting."""
        groups: dict[str, list[SpeedResult]] = {}
        for result in self.results:
            groups.setdefault(result.title, []).append(result)
        return groups


def of_folder(folder: Path, notices: list[str]) -> Speeds:
    """Every run below a folder. Without a vanilla run there are no speed-ups, which is noted."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; for single files use --file-path and --base-path"
        )
    runs = find_runs(folder, notices)
    comparisons = comparisons_of([run for run in runs if run.records], notices)
    traces = sorted((run for run in runs if run.traces), key=lambda run: run.name != "vanilla")
    traced_base = next((run for run in traces if run.name == "vanilla"), None)
    if traces and not traced_base:
        notices.append("no published trace is vanilla's (vanilla.jsonl), so they have no speed-ups")
    speeds = Speeds()
    for comparison in comparisons:
        _add(speeds, comparison)
    for run in traces:
        speeds.results.append(traced_speed_result(run, traced_base))
        if traced_base:
            speeds.pairs.append((run, traced_base))
    return speeds


def _add(speeds: Speeds, comparison: Comparison) -> None:
    for method in comparison.methods:
        if method.totals:
            speeds.results.append(speed_result(comparison, method))
        if comparison.vanilla:
            base = comparison.vanilla.runs[0]
            speeds.pairs += [(run, base) for run in method.runs]


def of_files(file: Path, base_file: Path, notices: list[str], force: bool = False) -> Speeds:
    """A method's file and vanilla's, in either format.

    Raises UserError for runs that are unlike in what decides texts and times; with `force` that is
    noted instead.
    """
    run, base = read_run(file, notices), read_run(base_file, notices)
    check_comparable(run, base)
    pairs = [(base, base), (run, base)]
    if run.traces or base.traces:
        return Speeds([traced_speed_result(*pair) for pair in pairs], pairs)
    if differing := unlike(run, base):
        said = f"{run.path} and {base.path} are unlike runs: {'; '.join(differing)}"
        if not force:
            raise UserError(f"{said}; their speeds do not compare (--force compares them anyway)")
        notices.append(f"{said}; compared because of --force")
    else:
        note_differences(run, base, notices)
    methods = (MethodRuns("vanilla", (base,)), MethodRuns(run.name, (run,)))
    comparison = Comparison(Setting("", float("nan"), ""), methods, name="")
    return Speeds([speed_result(comparison, method) for method in methods], pairs)


def show(speeds: Speeds, form: str) -> None:
    """One table a setting."""
    for title, results in speeds.by_title().items():
        if title:
            print(f"\n{title}")
        print(tables.speed(title, results).text(form))
        for line in tables.doubts(results):
            print(line)


def show_original(pairs: Sequence[tuple[RunFile, RunFile]], tokenizer_path: str | None) -> None:
    """The published script's numbers: mean speeds over questions, their ratio."""
    tokenize = _tokenize(tokenizer_path) if tokenizer_path else None
    how = "; vanilla's tokens re-tokenised, less one a turn" if tokenize else ""
    print(f"\nthe published formula: ratio of the mean over questions of tokens / second{how}")
    for run, base in pairs:
        base_totals = base.totals
        if tokenize and base.traces:
            base_totals = {q.question_id: q.total(tokenize) for q in base.traces}
        speed = metrics.original_speed(run.totals)
        base_speed = metrics.original_speed(base_totals)
        print(
            f"{run.name}: {speed:.2f} tokens/s, vanilla {base_speed:.2f} tokens/s,"
            f" speed-up {speed / base_speed:.3f}"
        )


def _tokenize(path: str) -> Callable[[str], list[int]]:
    from model.network import read_tokenizer

    tokenizer = read_tokenizer(path)
    return lambda text: tokenizer(text).input_ids


def _parser() -> Parser:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("folder", nargs="?", help="tabulate every run below this folder")
    parser.add_argument("--file-path", help="records or published traces of a method")
    parser.add_argument("--base-path", help="the same of vanilla")
    parser.add_argument(
        "--force",
        action="store_true",
        help="compare --file-path and --base-path though they are unlike runs",
    )
    parser.add_argument(
        "--formula",
        choices=("totals", "original"),
        default="totals",
        help="original: also print the published script's numbers",
    )
    parser.add_argument(
        "--tokenizer-path",
        help="for --formula original on published traces: re-tokenise vanilla's text",
    )
    parser.add_argument(
        "--mean-report", action="store_true", help="accepted for old command lines; no effect"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers as JSON")
    parser.add_argument("--plot", metavar="FILE", help="also draw the speed-ups (PNG, SVG or PDF)")
    add_quiet_flag(parser)
    return parser


def main() -> int:
    args = _parser().parse_args()
    if args.mean_report:
        print("note: --mean-report has no effect: accepted for old command lines", file=sys.stderr)
    notices: list[str] = []
    if args.folder:
        speeds = of_folder(Path(args.folder), notices)
    elif args.file_path and args.base_path:
        speeds = of_files(Path(args.file_path), Path(args.base_path), notices, args.force)
    else:
        raise UserError("give a folder, or --file-path METHOD.jsonl and --base-path VANILLA.jsonl")
    if not args.quiet:
        print_notices(notices)
        show(speeds, args.format)
        print("\n" + definitions.SPEED)
    if args.formula == "original":
        show_original(speeds.pairs, args.tokenizer_path)
    if args.json:
        rows = [result.as_json() for result in speeds.results]
        write_atomically(Path(args.json), json.dumps(rows, indent=1) + "\n")
    if args.plot:
        draw(speeds, Path(args.plot))
    return 0


def draw(speeds: Speeds, path: Path) -> None:
    """The speed-ups as bars, where there are any."""
    from evaluation.report import figures

    with_vanilla = []
    for title, results in speeds.by_title().items():
        if any(result.speed_up for result in results):
            with_vanilla.append((title, results))
    if with_vanilla:
        figures.save(figures.speed_bars(with_vanilla), path)
    else:
        print(f"note: {path} is not drawn: without a vanilla run there are no speed-ups")


if __name__ == "__main__":
    run_command(main)()
