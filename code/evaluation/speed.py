"""The speed table: of two files as in the published benchmark, or of every run below a folder.

    python evaluation/speed.py --file-path METHOD.jsonl --base-path VANILLA.jsonl
    python evaluation/speed.py data/mini

Reads records only; knows neither models nor drafters.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation import metrics
from evaluation.comparison import Method, Setting, settings_of
from evaluation.runs import Run, check_comparable, comparable, find_runs, read_run
from evaluation.tables import FORMATS, number, percent, render
from evaluation.writer import write_atomically
from model.errors import UserError

HEADER = ("method", "n", "tokens/s", "speed-up [95 %]", "mean", "MAT", "drafted", "cost (steps)", "draft", "verify", "rest",
          "scope", "failed", "cut")


def row(setting: Setting, method: Method) -> dict[str, Any]:
    """One method's numbers, repeats pooled; speed-ups are None without a vanilla run of the same setting."""
    up, questions = setting.speed_up(method), setting.shared(method)
    records = method.on(questions)
    draft, verify = (metrics.share(records, f) for f in ("draft_time", "verify_time"))
    mat = metrics.mean_accepted_tokens(records)
    every = [r for run in method.runs for r in run.records]
    return {"method": method.name, "title": setting.title, "files": [str(run.path) for run in method.runs],
            "questions": len(questions), "tokens_per_second": metrics.speed(method.totals), "speed_up": up and up.ratio,
            "low": up and up.low, "high": up and up.high, "mean_ratio": up and up.mean, "mat": mat,
            "drafted": metrics.drafted_per_step(records), "cost": mat / up.ratio if up else None, "draft": draft,
            "verify": verify, "rest": 1 - draft - verify, "scope": every[0].memory_scope,
            "failed": sum(r.failed for r in every), "cut": sum(r.finish_reason == "length" for r in every)}


def legacy_row(run: Run, base: Run) -> dict[str, Any]:
    """The same of a published trace, as far as it tells."""
    up = metrics.speed_up(run.totals, base.totals)
    lengths = [n for q in run.legacy for n in q.accept_lengths] or [n for r in run.records for n in r.accept_lengths]
    return {"method": run.name, "title": "", "files": [str(run.path)], "questions": len(run.totals),
            "tokens_per_second": metrics.speed(run.totals), "speed_up": up.ratio, "low": up.low, "high": up.high,
            "mean_ratio": up.mean, "mat": sum(lengths) / len(lengths) if lengths else float("nan")}


def cells(values: dict[str, Any]) -> list[str]:
    """A row of the table, rounded."""
    up = number(values["speed_up"])
    if values["low"] is not None and values["low"] == values["low"]:
        up += f" [{number(values['low'])}, {number(values['high'])}]"
    first = [values["method"], str(values["questions"]), number(values["tokens_per_second"], 1), up,
             number(values["mean_ratio"]), number(values["mat"])]
    if "drafted" not in values:
        return first + ["-"] * (len(HEADER) - len(first))
    shares = [percent(values[phase]) for phase in ("draft", "verify", "rest")]
    return [*first, number(values["drafted"], 1), number(values["cost"]), *shares, values["scope"],
            str(values["failed"]), str(values["cut"])]


def rows_of_folder(folder: Path, notices: list[str]) -> tuple[list[dict[str, Any]], list[tuple[Run, Run]]]:
    """Rows of every run below a folder, and the (run, vanilla run) pairs they come from."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; for single files use --file-path and --base-path")
    runs = find_runs(folder, notices)
    settings = settings_of([r for r in runs if r.records], notices)
    traces = [r for r in runs if r.legacy]
    base = next((r for r in traces if r.name == "vanilla"), None)
    if not base and not any(s.vanilla for s in settings):
        raise UserError(f"{folder} holds no vanilla run, so there is nothing to measure speed-ups against; run --method vanilla")
    rows = [row(s, m) for s in settings for m in s.methods if m.totals]
    pairs = [(run, s.vanilla.runs[0]) for s in settings if s.vanilla for m in s.methods for run in m.runs]
    if base:
        ordered = sorted(traces, key=lambda r: r.name != "vanilla")
        rows += [legacy_row(run, base) for run in ordered]
        pairs += [(run, base) for run in ordered]
    return rows, pairs


def rows_of_files(file: Path, base_file: Path, notices: list[str]) -> tuple[list[dict[str, Any]], list[tuple[Run, Run]]]:
    """The same of two files, in either format."""
    run, base = read_run(file, notices), read_run(base_file, notices)
    check_comparable(run, base)
    pairs = [(base, base), (run, base)]
    if run.legacy or base.legacy:
        return [legacy_row(*pair) for pair in pairs], pairs
    comparable(run, base, notices)
    setting = Setting("", float("nan"), "", (Method("vanilla", (base,)), Method(run.name, (run,))), "")
    return [row(setting, m) for m in setting.methods], pairs


def show(rows: list[dict[str, Any]], form: str) -> None:
    """One table a setting."""
    for title in dict.fromkeys(r["title"] for r in rows):
        if title:
            print(f"\n{title}")
        print(render(HEADER, [cells(r) for r in rows if r["title"] == title], form))


def show_original(pairs: list[tuple[Run, Run]], tokenizer_path: str | None) -> None:
    """The published script's numbers: mean speeds over questions, their ratio, MAT over pooled steps."""
    tokenize = None
    if tokenizer_path:
        from transformers import AutoTokenizer

        tokenize = lambda text: AutoTokenizer.from_pretrained(tokenizer_path)(text).input_ids
    print("\nthe published formula: ratio of the mean over questions of tokens / second"
          + ("; vanilla's tokens re-tokenised, less one a turn" if tokenize else ""))
    for run, base in pairs:
        speed, base_speed = metrics.original_speed(run.totals), metrics.original_speed(base.totals)
        if tokenize and base.legacy:
            base_speed = metrics.original_speed({q.question_id: q.total(tokenize) for q in base.legacy})
        print(f"{run.name}: {speed:.2f} tokens/s, vanilla {base_speed:.2f} tokens/s, speed-up {speed / base_speed:.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", help="tabulate every run below this folder")
    parser.add_argument("--file-path", help="records or published traces of a method")
    parser.add_argument("--base-path", help="the same of vanilla")
    parser.add_argument("--formula", choices=("totals", "original"), default="totals",
                        help="original: also print the published script's numbers")
    parser.add_argument("--tokenizer-path", help="for --formula original on published traces: re-tokenise vanilla's text")
    parser.add_argument("--mean-report", action="store_true", help="accepted for old command lines; not needed")
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers as JSON")
    parser.add_argument("--plot", metavar="FILE", help="also draw the speed-ups (PNG, SVG or PDF)")
    args = parser.parse_args()
    notices: list[str] = []
    if not args.folder and not (args.file_path and args.base_path):
        raise UserError("give a folder, or --file-path METHOD.jsonl and --base-path VANILLA.jsonl")
    rows, pairs = (rows_of_folder(Path(args.folder), notices) if args.folder else
                   rows_of_files(Path(args.file_path), Path(args.base_path), notices))
    for notice in notices:
        print(f"note: {notice}")
    show(rows, args.format)
    print("\n" + metrics.DEFINITIONS)
    if args.formula == "original":
        show_original(pairs, args.tokenizer_path)
    if args.json:
        write_atomically(Path(args.json), json.dumps(rows, indent=1) + "\n")
    if args.plot:
        from evaluation.plots import speed_ups

        speed_ups(rows, Path(args.plot))
    return 0


if __name__ == "__main__":
    from evaluation.errors import guarded

    guarded(main)()
