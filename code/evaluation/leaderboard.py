"""One table over the runs of several machines: python -m evaluation.leaderboard DIR ... [--csv FILE]

Speed-ups are over vanilla of the same folder (the same machine) and are re-computed from the records. What is not
comparable is not mixed: other questions, budgets, number types or models form no common table. Each row carries the
hash of its manifest.
"""

import argparse
import csv
import hashlib
import io
from pathlib import Path
from typing import Any

from evaluation import metrics
from evaluation.errors import guarded
from evaluation.report.data import Method, Setting, gather
from evaluation.tables import FORMATS, number, render
from evaluation.writer import manifest_path, write_atomically
from model.errors import UserError

HEADER = ("rank", "method", "paradigm", "T", "machine", "questions", "speed-up", "low", "high", "MAT", "tokens/s", "scope",
          "manifest")
MUST_AGREE = ("questions_hash", "max_new_tokens", "thinking_budget", "dtype", "model", "seed", "bench", "subset",
              "paradigm_options")


def check_agree(settings: list[Setting]) -> None:
    """Refuse settings whose runs of one paradigm and temperature differ in what they were asked."""
    seen: dict[tuple, tuple[Path, dict[str, Any]]] = {}
    for setting in settings:
        for run in (r for m in setting.methods for r in m.runs):
            found = {k: run.manifest.get("settings", {}).get(k) for k in MUST_AGREE}
            first, theirs = seen.setdefault((setting.paradigm, setting.temperature), (run.path, found))
            differing = [f"{k}: {theirs[k]!r} / {found[k]!r}" for k in MUST_AGREE if theirs[k] != found[k]]
            if differing:
                raise UserError(f"{first} and {run.path} are not comparable ({'; '.join(differing)}); give folders of the "
                                f"same questions, budgets, number type and model")


def manifest_hash(method: Method) -> str:
    """Of the first run's manifest file."""
    file = manifest_path(method.runs[0].path)
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.exists() else "-"


def row(setting: Setting, method: Method) -> dict[str, Any] | None:
    """One method's line, or None without a vanilla run beside it."""
    up = setting.speed_up(method)
    if up is None:
        return None
    return {"method": method.name, "paradigm": setting.paradigm, "T": f"{setting.temperature:g}",
            "machine": method.runs[0].manifest.get("device", "-"), "questions": str(up.questions), "ratio": up.ratio,
            "speed-up": number(up.ratio), "low": number(up.low), "high": number(up.high),
            "MAT": number(metrics.mean_accepted_tokens(method.records)),
            "tokens/s": number(metrics.speed(method.totals), 1), "scope": method.records[0].memory_scope,
            "manifest": manifest_hash(method)}


def rows_of(folders: list[Path], notices: list[str]) -> list[list[str]]:
    """All lines, the fastest first within a paradigm and temperature."""
    settings = [s for folder in folders for s in gather(folder, notices)]
    check_agree(settings)
    found = [r for s in settings for m in s.methods if m.records and m.totals and (r := row(s, m))]
    found.sort(key=lambda r: (r["paradigm"], r["T"], -r["ratio"]))
    ranks: dict[tuple[str, str], int] = {}
    lines = []
    for r in found:
        key = (r["paradigm"], r["T"])
        ranks[key] = ranks.get(key, 0) + 1
        lines.append([str(ranks[key]), *(r[h] for h in HEADER[1:])])
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of runs, one a machine")
    parser.add_argument("--csv", type=Path, help="also write the table as CSV")
    parser.add_argument("--format", choices=tuple(FORMATS), default="markdown")
    args = parser.parse_args()
    for folder in args.folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
    notices: list[str] = []
    lines = rows_of(args.folders, notices)
    for notice in notices:
        print(f"note: {notice}")
    if not lines:
        raise UserError("no method has a vanilla run beside it, so there is nothing to rank; run --method vanilla")
    print(render(HEADER, lines, args.format))
    if args.csv:
        text = io.StringIO()
        csv.writer(text).writerows([HEADER, *lines])
        write_atomically(args.csv, text.getvalue())
    return 0


if __name__ == "__main__":
    guarded(main)()
