"""One table over the runs of several machines: python -m evaluation.leaderboard DIR ... [--csv FILE]

Speed-ups are over vanilla of the same folder (the same machine) and are re-computed from the records. What is not
comparable is not mixed: other questions, prompts, budgets, number types or models form no common table, and ranks are
over the questions that all runs have finished. Each row carries the hashes of its manifests and of vanilla's.
"""

import argparse
import csv
import hashlib
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

from evaluation import metrics, runs
from evaluation.comparison import Method, Setting, gather
from evaluation.errors import guarded
from evaluation.runs import Run, check_prompts
from evaluation.tables import FORMATS, number, render
from evaluation.writer import manifest_path, write_atomically
from model.errors import UserError

HEADER = ("rank", "method", "paradigm", "T", "machine", "questions", "speed-up", "low (95 %)", "high (95 %)",
          "MAT (tokens/step)", "tokens/s", "scope", "manifest", "vanilla's manifest")
# the engine may differ between machines: each row is over vanilla of its own
MUST_AGREE = ("questions_hash", "model", "bench", "subset", *(k for k in runs.MUST_AGREE if k != "engine"))
Key = tuple[str, float]


def check_agree(settings: list[Setting]) -> None:
    """Refuse settings whose runs of one paradigm and temperature differ in what they were asked."""
    seen: dict[Key, tuple[Run, dict[str, Any]]] = {}
    for setting in settings:
        for run in (r for m in setting.methods for r in m.runs):
            found = {k: run.manifest.get("settings", {}).get(k) for k in MUST_AGREE}
            first, theirs = seen.setdefault((setting.paradigm, setting.temperature), (run, found))
            differing = [f"{k}: {theirs[k]!r} / {found[k]!r}" for k in MUST_AGREE if theirs[k] != found[k]]
            if differing:
                raise UserError(f"{first.path} and {run.path} are not comparable ({'; '.join(differing)}); give folders of the "
                                f"same questions, budgets, number type and model")
            check_prompts(run, first)


def manifests(method: Method) -> str:
    """Hashes of the manifests of all its repeats."""
    files = [manifest_path(run.path) for run in method.runs]
    return "+".join(hashlib.sha256(f.read_bytes()).hexdigest()[:12] if f.exists() else "-" for f in files)


def common_questions(settings: list[Setting], notices: list[str]) -> dict[Key, set[str]]:
    """What all rows of one paradigm and temperature have finished: ranks are over the same questions."""
    found: dict[Key, list[set[str]]] = defaultdict(list)
    for setting in settings:
        if setting.vanilla:
            found[setting.paradigm, setting.temperature] += [setting.shared(m) for m in setting.methods if m.totals]
    common = {key: set.intersection(*sets) for key, sets in found.items() if sets}
    for (paradigm, temperature), sets in found.items():
        left = len(common.get((paradigm, temperature), ()))
        if left < max(map(len, sets), default=0):
            notices.append(f"{paradigm}, T = {temperature:g}: ranked over the {left} questions that every run has finished")
    return common


def row(setting: Setting, method: Method, common: set[str]) -> dict[str, Any] | None:
    """One method's line, or None without a vanilla run beside it."""
    up = setting.speed_up(method, among=common)
    if up is None:
        return None
    records = method.on(common)
    totals = {q: t for q, t in method.totals.items() if q in common}
    return {"method": method.name, "paradigm": setting.paradigm, "T": f"{setting.temperature:g}",
            "machine": method.runs[0].manifest.get("device", "-"), "questions": str(up.questions), "ratio": up.ratio,
            "speed-up": number(up.ratio), "low (95 %)": number(up.low), "high (95 %)": number(up.high),
            "MAT (tokens/step)": number(metrics.mean_accepted_tokens(records)),
            "tokens/s": number(metrics.speed(totals), 1), "scope": records[0].memory_scope,
            "manifest": manifests(method), "vanilla's manifest": manifests(setting.vanilla)}


def rows_of(folders: list[Path], notices: list[str]) -> list[list[str]]:
    """All lines, the fastest first within a paradigm and temperature."""
    settings = [s for folder in folders for s in gather(folder, notices)]
    check_agree(settings)
    common = common_questions(settings, notices)
    found = [r for s in settings for m in s.methods
             if m.totals and (r := row(s, m, common.get((s.paradigm, s.temperature), set())))]
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
        raise UserError("no method has a vanilla run beside it and a question that all runs have finished, so there is nothing"
                        " to rank; run --method vanilla")
    print(render(HEADER, lines, args.format))
    print("\n" + metrics.DEFINITIONS)
    if args.csv:
        text = io.StringIO()
        csv.writer(text).writerows([HEADER, *lines])
        write_atomically(args.csv, text.getvalue())
    return 0


if __name__ == "__main__":
    guarded(main)()
