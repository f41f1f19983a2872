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
from evaluation.runs import Run, check_comparable, comparable, find_runs, pair_with_vanilla, read_run
from evaluation.tables import FORMATS, number, percent, render
from evaluation.writer import write_atomically
from model.errors import UserError

HEADER = ("method", "n", "tokens/s", "speed-up", "mean", "MAT", "drafted", "cost", "draft", "verify", "other", "scope",
          "failed", "cut")


def row(run: Run, base: Run | None) -> dict[str, Any]:
    """One method's numbers; speed-ups are None without a vanilla run of the same setting."""
    up = metrics.speed_up(run.totals, base.totals) if base else None
    found: dict[str, Any] = {"method": run.name, "setting": list(run.setting), "file": str(run.path),
                             "questions": len(run.totals), "tokens_per_second": metrics.speed(run.totals),
                             "speed_up": up and up.ratio, "low": up and up.low, "high": up and up.high,
                             "mean_ratio": up and up.mean}
    if not run.records:
        lengths = [n for q in run.legacy for n in q.accept_lengths]
        return {**found, "mat": sum(lengths) / len(lengths) if lengths else float("nan")}
    whole = metrics.finished(run.records)
    draft, verify = (metrics.share(whole, f) for f in ("draft_time", "verify_time"))
    mat = metrics.mean_accepted_tokens(whole)
    return {**found, "mat": mat, "drafted": metrics.drafted_per_step(whole), "cost": mat / up.ratio if up else None,
            "draft": draft, "verify": verify, "other": 1 - draft - verify, "scope": run.records[0].memory_scope,
            "failed": len(run.records) - len(whole), "cut": sum(r.finish_reason == "length" for r in whole)}


def cells(values: dict[str, Any]) -> list[str]:
    """A row of the table, rounded."""
    up = number(values["speed_up"])
    if values["low"] is not None and values["low"] == values["low"]:
        up += f" [{number(values['low'])}, {number(values['high'])}]"
    first = [values["method"], str(values["questions"]), number(values["tokens_per_second"], 1), up,
             number(values["mean_ratio"]), number(values["mat"])]
    if "drafted" not in values:
        return first + ["-"] * (len(HEADER) - len(first))
    shares = [percent(values[phase]) for phase in ("draft", "verify", "other")]
    return [*first, number(values["drafted"], 1), number(values["cost"]), *shares, values["scope"],
            str(values["failed"]), str(values["cut"])]


def pairs_of(args: argparse.Namespace, notices: list[str]) -> list[tuple[Run, Run | None]]:
    """The runs to show, each with its baseline."""
    if args.folder:
        if not Path(args.folder).is_dir():
            raise UserError(f"{args.folder} is not a folder; for single files use --file-path and --base-path")
        return pair_with_vanilla(find_runs(Path(args.folder), notices))
    if not args.file_path or not args.base_path:
        raise UserError("give a folder, or --file-path METHOD.jsonl and --base-path VANILLA.jsonl")
    base = read_run(Path(args.base_path), notices)
    return [(base, base), (read_run(Path(args.file_path), notices), base)]


def show(rows: list[dict[str, Any]], form: str) -> None:
    """One table a setting."""
    settings = list(dict.fromkeys(tuple(r["setting"][:2]) + tuple(r["setting"][2:]) for r in rows))
    for setting in settings:
        paradigm, temperature, _ = setting
        if paradigm:
            print(f"\n{paradigm}, temperature {temperature:g}")
        print(render(HEADER, [cells(r) for r in rows if tuple(r["setting"]) == setting], form))
    for setting in settings:
        mine = [r for r in rows if tuple(r["setting"]) == setting]
        if all(r["speed_up"] is None for r in mine):
            print(f"\n{setting[0]}, temperature {setting[1]:g}: no vanilla run, so no speed-ups; run --method vanilla")


def show_original(pairs: list[tuple[Run, Run | None]], tokenizer_path: str | None) -> None:
    """The published script's numbers: mean speeds over questions, their ratio, MAT over pooled steps."""
    tokenize = None
    if tokenizer_path:
        from transformers import AutoTokenizer

        tokenize = lambda text: AutoTokenizer.from_pretrained(tokenizer_path)(text).input_ids
    print("\nthe published formula: ratio of the mean over questions of tokens / second"
          + ("; vanilla's tokens re-tokenised, less one a turn" if tokenize else ""))
    for run, base in pairs:
        if base is None:
            continue
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
    pairs = pairs_of(args, notices)
    if args.folder:
        pairs = [(run, base if comparable(run, base, notices) else None) for run, base in pairs]
    else:
        check_comparable(*pairs[1])
    rows = [row(run, base) for run, base in pairs]
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
