"""Are two folders of runs the same? What a refactoring has to show.

    python bench/same_runs.py BEFORE AFTER

Every generation of BEFORE must be in AFTER with the same tokens, accept lengths, draft lengths and
drafters (by their names today). Times differ, so numbers made of them are not compared between the
two; to see that the numbers made from records have not changed, tabulate the old records with both
versions: `python evaluation/speed.py BEFORE --json FILE`. Exit code 1 where something differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.analysis.acceptance import sources
from evaluation.command import Parser, run_command, summary
from evaluation.records.runs import RunFile, find_runs
from evaluation.records.schema import Record

RENAMED = {"sam_static": "sam_corpus"}


def essence(record: Record) -> dict[str, object]:
    """What a generation must keep."""
    return {
        "output ids": record.output_ids,
        "finish reason": record.finish_reason,
        "forced tokens": record.forced_tokens,
        "accept lengths": record.accept_lengths,
        "draft lengths": record.draft_lengths,
        "drafters": [RENAMED.get(name, name) for name in sources(record)],
    }


def by_run(folder: Path) -> dict[tuple[str, str, float], RunFile]:
    """Runs by method, paradigm and temperature."""
    runs = {}
    for run in find_runs(folder, notices=[]):
        runs[run.name, run.setting.paradigm, run.setting.temperature] = run
    return runs


def differences(before: RunFile, after: RunFile) -> list[str]:
    """A line for every generation that is not the same."""
    lines = []
    records = {record.key: record for record in after.records}
    for record in before.records:
        if record.key not in records:
            lines.append(f"{record.key} is missing")
            continue
        then, now = essence(record), essence(records[record.key])
        if differing := [name for name, value in then.items() if now[name] != value]:
            lines.append(f"{record.key}: {', '.join(differing)} differ")
    return lines


def main() -> int:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()
    after = by_run(args.after)
    generations = wrong = 0
    for name, run in by_run(args.before).items():
        lines = differences(run, after[name]) if name in after else ["the run is missing"]
        generations += len(run.records)
        wrong += len(lines)
        for line in lines:
            print(f"{' '.join(map(str, name))}: {line}")
    print(f"{generations} generations of {args.before} looked at, {wrong} differ in {args.after}")
    return int(wrong > 0)


if __name__ == "__main__":
    run_command(main)()
