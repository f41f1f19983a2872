"""One table over the runs of several machines.

    python -m evaluation.leaderboard DIR ... [--csv FILE]

Speed-ups are over vanilla of the same folder (the same machine) and are computed from the records.
What is not comparable is not mixed: other questions, prompts, budgets, number types or models form
no common table, and ranks are over the questions that all runs have finished. Each row carries the
hashes of its manifests and of vanilla's. A run whose figures are not believed (a step cheaper than
vanilla's, other loads than vanilla's, a shared machine) is not ranked.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.analysis.comparison import Comparison, MethodRuns, gather
from evaluation.analysis.results import SpeedResult, speed_result
from evaluation.command import Parser, print_notices, run_command, summary
from evaluation.records import runs
from evaluation.records.runs import RunFile, check_prompts
from evaluation.records.writer import write_atomically
from evaluation.report import definitions, tables
from evaluation.report.formatting import FORMATS, UNKNOWN, Table, number
from model.errors import UserError

HEADER = (
    "rank",
    "method",
    "paradigm",
    "T",
    "machine",
    "questions",
    "speed-up",
    "low (95 %)",
    "high (95 %)",
    "noise",
    "texts",
    "MAT (tokens/step)",
    "tokens/s",
    "scope",
    "manifest",
    "vanilla's manifest",
)
# the engine may differ between machines: each row is over vanilla of its own
MUST_AGREE = (
    "questions_hash",
    "model",
    "bench",
    "subset",
    *(name for name in runs.MUST_AGREE if name != "engine"),
)
Board = tuple[str, float]
"""Paradigm and temperature: what is ranked together."""


@dataclass(frozen=True)
class Entry:
    """One method of one machine."""

    board: Board
    machine: str
    speed: SpeedResult
    scope: str
    manifests: str
    vanilla_manifests: str

    @property
    def ratio(self) -> float:
        assert self.speed.speed_up is not None
        return self.speed.speed_up.ratio

    def cells(self, rank: int) -> list[str]:
        """The table's line."""
        up = self.speed.speed_up
        assert up is not None
        paradigm, temperature = self.board
        return [
            str(rank),
            self.speed.method,
            paradigm,
            f"{temperature:g}",
            self.machine,
            str(up.questions),
            number(up.ratio),
            number(up.low),
            number(up.high),
            tables.noise(up),
            tables.sameness(self.speed.same),
            number(self.speed.mat),
            number(self.speed.tokens_per_second, 1),
            self.scope,
            self.manifests,
            self.vanilla_manifests,
        ]


def board_of(comparison: Comparison) -> Board:
    return comparison.setting.paradigm, comparison.setting.temperature


def check_agree(comparisons: Sequence[Comparison]) -> None:
    """Raise UserError for runs of one board that differ in what they were asked."""
    first_of: dict[Board, RunFile] = {}
    for comparison in comparisons:
        for method in comparison.methods:
            for run in method.runs:
                first = first_of.setdefault(board_of(comparison), run)
                _check_pair(first, run)


def _check_pair(first: RunFile, run: RunFile) -> None:
    differing = []
    for name in run.manifest.differing(first.manifest, MUST_AGREE):
        values = first.manifest.settings.get(name), run.manifest.settings.get(name)
        differing.append(f"{name}: {values[0]!r} / {values[1]!r}")
    if differing:
        raise UserError(
            f"{first.path} and {run.path} are not comparable ({'; '.join(differing)}); give"
            " folders of the same questions, budgets, number type and model"
        )
    check_prompts(run, first)


def common_questions(
    comparisons: Sequence[Comparison], notices: list[str]
) -> dict[Board, set[str]]:
    """What all rows of one board have finished: ranks are over the same questions."""
    finished: dict[Board, list[set[str]]] = defaultdict(list)
    for comparison in comparisons:
        if comparison.vanilla:
            for method in comparison.methods:
                if method.totals:
                    finished[board_of(comparison)].append(comparison.common_questions(method))
    common = {}
    for board, sets in finished.items():
        common[board] = set.intersection(*sets)
        if len(common[board]) < max(len(questions) for questions in sets):
            paradigm, temperature = board
            notices.append(
                f"{paradigm}, T = {temperature:g}: ranked over the {len(common[board])} questions"
                " that every run has finished"
            )
    return common


def entries(folders: Sequence[Path], notices: list[str]) -> list[Entry]:
    """Every method with a vanilla run beside it, the fastest first within a board."""
    comparisons: list[Comparison] = []
    for folder in folders:
        comparisons += gather(folder, notices)
    check_agree(comparisons)
    common = common_questions(comparisons, notices)
    ranked = []
    for comparison in comparisons:
        questions = common.get(board_of(comparison), set())
        for method in comparison.methods:
            result = speed_result(comparison, method, among=questions)
            if not method.totals or not result.speed_up:
                continue
            if result.doubt:
                machine = method.manifest.device or "an unknown machine"
                title = f"{comparison.title}, {machine}"
                notices.append(f"{title}: {method.name} is not ranked: {result.doubt}")
                continue
            ranked.append(_entry(comparison, method, result))
    return sorted(ranked, key=lambda entry: (*entry.board, -entry.ratio))


def _entry(comparison: Comparison, method: MethodRuns, result: SpeedResult) -> Entry:
    assert comparison.vanilla is not None
    return Entry(
        board=board_of(comparison),
        machine=method.manifest.device or UNKNOWN,
        speed=result,
        scope=result.step.scope if result.step else UNKNOWN,
        manifests=_digests(method),
        vanilla_manifests=_digests(comparison.vanilla),
    )


def _digests(method: MethodRuns) -> str:
    """Hashes of the manifests of all its repeats."""
    return "+".join(run.manifest.digest for run in method.runs)


def lines(ranked: Sequence[Entry]) -> list[list[str]]:
    """The table's lines; ranks begin anew with every board."""
    rows = []
    ranks: dict[Board, int] = defaultdict(int)
    for entry in ranked:
        ranks[entry.board] += 1
        rows.append(entry.cells(ranks[entry.board]))
    return rows


def main() -> int:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("folders", nargs="+", type=Path, help="folders of runs, one a machine")
    parser.add_argument("--csv", type=Path, help="also write the table as CSV")
    parser.add_argument("--format", choices=tuple(FORMATS), default="markdown")
    args = parser.parse_args()
    for folder in args.folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
    notices: list[str] = []
    rows = lines(entries(args.folders, notices))
    print_notices(notices)
    if not rows:
        raise UserError(
            "no method has a vanilla run beside it and a question that all runs have finished,"
            " so there is nothing to rank; run --method vanilla"
        )
    print(Table("", HEADER, rows).text(args.format))
    print("\n" + definitions.SPEED)
    if args.csv:
        text = io.StringIO()
        csv.writer(text).writerows([HEADER, *rows])
        write_atomically(args.csv, text.getvalue())
    return 0


if __name__ == "__main__":
    run_command(main)()
