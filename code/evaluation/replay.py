"""Replay recorded texts through drafters: what each accepts, its bounds, what it would be worth.

    python -m evaluation.replay TRACES --methods sam pia pld --tokenizer FOLDER --out DIR

TRACES are files or folders of JSON lines: this benchmark's records, logs in OpenAI's terms, the
published benchmark's answer files, or lines with `prompt` and `text` or `token_ids`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from evaluation import paradigms, tasks
from evaluation.analysis.price import Costs, built_in, read_costs
from evaluation.command import Parser, at_least, print_notices, real, run_command, summary
from evaluation.records.manifest import manifest_path, read_manifest
from evaluation.replaying.corpus import Corpus, index
from evaluation.replaying.encoding import Encoder
from evaluation.replaying.formats import ReadOptions
from evaluation.replaying.golden import golden
from evaluation.replaying.plan import Plan, Variant
from evaluation.replaying.sweep import Grid, parse_grid
from evaluation.replaying.target import TextTarget
from evaluation.replaying.trace import HELP, Fields
from evaluation.replaying.writing import Output, replay_all
from evaluation.report import replay_figures, replay_tables
from evaluation.report.formatting import FORMATS
from evaluation.running.options import add_options, method_configs
from evaluation.running.several import chosen_methods
from model import methods
from model.contract import NO_CAP, SCOPES
from model.errors import UserError
from model.index.compiled import IS_COMPILED, SLOW_NOTE
from model.network import read_tokenizer
from model.paths import DATA

FEW_QUESTIONS = 16
"""So many are replayed in this process: starting others takes longer."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(sys.argv[1:] if argv is None else argv)
    corpus, notices = _corpus(args)
    if not IS_COMPILED:
        notices.append(SLOW_NOTE)
    plan = _plan(args, corpus)
    costs = None
    if args.costs is not None:
        costs = read_costs(args.costs, args.host_time == "on")
    workers = args.workers or (os.cpu_count() or 1)
    if len(corpus.questions) < FEW_QUESTIONS or any(v.scope == "run" for v in plan.variants):
        workers = 1
    grid = parse_grid(args.sweep, plan.variants) if args.sweep else None
    if grid:
        grid.check(len(corpus.questions), args.hold_out)
        return _sweep(args, plan, grid, costs, workers, notices)
    output = Output(args.out or DATA / "replay" / _name(args.traces), plan)
    result = replay_all(plan, output, workers, notices)
    print_notices(notices)
    print(f"{result.title}: {result.generations} generations, {result.tokens:,} tokens")
    for table in replay_tables.of_replay(result, costs):
        print(f"\n{table.title}\n{table.text(args.format)}")
    if costs:
        print(f"\npredicted with {costs.title}")
    if args.export:
        golden(result).write(args.export)
        print(f"golden acceptance: {args.export}")
    print(f"records: {output.folder}  (python -m evaluation.report {output.folder})")
    return 0


def _sweep(
    args: argparse.Namespace,
    plan: Plan,
    grid: Grid,
    costs: Costs | None,
    workers: int,
    notices: list[str],
) -> int:
    """Replay every setting of a grid, and say which is best."""
    plan = replace(plan, variants=grid.variants, wants_records=False, wants_bounds=False)
    out = args.out or DATA / "replay" / f"{_name(args.traces)}-sweep"
    output = Output(out, plan)
    result = replay_all(plan, output, workers, notices)
    print_notices(notices)
    chosen = grid.choose(result, costs, args.hold_out)
    for table in chosen.tables():
        print(f"\n{table.title}\n{table.text(args.format)}")
    print(f"\n{chosen.verdict()}")
    if costs:
        print(f"predicted with {costs.title}")
    figure = output.folder / "sweep.png"
    replay_figures.save_front(chosen.points, figure)
    print(f"figure: {figure}")
    return 0


def _name(traces: Sequence[Path]) -> str:
    return traces[0].stem


def _corpus(args: argparse.Namespace) -> tuple[Corpus, list[str]]:
    named = {f.name: getattr(args, f"field_{f.name}") for f in fields(Fields)}
    options = ReadOptions(Fields(**named), args.paradigm or "multi_round")
    corpus, notices = index(args.traces, options, args.samples, args.skip_bad_lines)
    chosen = list(corpus.questions)[: args.limit]
    return corpus.only(chosen), notices


def _plan(args: argparse.Namespace, corpus: Corpus) -> Plan:
    first = corpus.files[0]
    is_ours = corpus.formats[0].endswith(".records")
    if is_ours and "spec" not in read_manifest(first).data:
        raise UserError(
            f"{first} are records without their manifest;"
            f" copy {manifest_path(first).name} beside it"
        )
    manifest = read_manifest(first) if is_ours else read_manifest(Path(os.devnull))
    settings = manifest.settings if is_ours else {}
    path = args.tokenizer or (manifest.model_folder if Path(manifest.model_folder).is_dir() else "")
    if args.tokenizer and not Path(args.tokenizer).exists():
        raise UserError(f"--tokenizer {args.tokenizer} is no folder with a tokenizer")
    tokenizer = read_tokenizer(path) if path else None
    end = manifest.end_think_id if is_ours else Encoder(tokenizer).end_think_id
    paradigm = settings.get("paradigm") or args.paradigm
    if paradigm is None:
        paradigm = "multi_round" if corpus.has_rounds else "best_of_n"
    questions = None
    if args.question_file:
        questions = {q.id: q.text for q in tasks.load("", args.question_file)[1]}
    plan = Plan(
        corpus=corpus,
        variants=(),
        target=TextTarget(path, manifest.vocab_size or NO_CAP),
        stop_ids=frozenset(manifest.stop_ids or ()),
        questions=questions,
        uses_chat=args.chat,
        interleave=args.interleave,
        paradigm=paradigm,
        model_id=f"replay-{_name(args.traces)}",
        temperature=args.temperature,
        end_think_id=end,
        # an engine does not tell its stop tokens: a text ends where it was ended
        budgets=settings.get("max_new_tokens") if manifest.stop_ids else None,
        skips_bad=args.skip_bad_lines,
        wants_bounds=args.bounds,
    )
    return replace(plan, variants=_variants(args))


def _variants(args: argparse.Namespace) -> tuple[Variant, ...]:
    variants = []
    for name in args.names:
        options: dict[str, object] = {}
        for config in method_configs(name, args):
            for field in fields(config):
                options[field.name] = getattr(config, field.name)
        variants.append(Variant(name, name, options, args.scope, args.max_nodes or NO_CAP))
    return tuple(variants)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--methods", nargs="+", default=[])
    chosen, rest = first.parse_known_args(argv)
    names = _checked(chosen.methods, rest)
    parser = Parser(
        description=summary(__doc__),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("traces", nargs="+", type=Path, help="files or folders of JSON lines")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="methods that need no model")
    parser.add_argument("--out", type=Path, help="folder; default data/replay/NAME")
    parser.add_argument("--tokenizer", help="folder of the tokenizer that makes ids of the texts")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    _add_memory_flags(parser.add_argument_group("memory"))
    _add_price_flags(parser.add_argument_group("bounds and price"))
    _add_trace_flags(parser.add_argument_group("traces"))
    types: list[type] = []
    for name in names:
        types += methods.config_types(name)
    add_options(parser.add_argument_group("methods"), types)
    args = parser.parse_args(rest)
    args.names = names
    at_least(args, 1, "interleave", "samples", "limit", "max_nodes")
    at_least(args, 0, "workers", "temperature", "hold_out")
    if args.hold_out >= 1:
        raise UserError("--hold-out is the share of questions that are held out, below 1")
    if args.hold_out and not args.sweep:
        raise UserError("--hold-out needs --sweep: it tells what the choice flatters")
    if args.sweep and args.export:
        raise UserError("--export writes what methods accept, --sweep compares settings: use one")
    return args


def _checked(named: Sequence[str], rest: Sequence[str]) -> list[str]:
    """The methods; UserError where there is none, or one needs the model itself."""
    if not named and not {"-h", "--help", "--version"} & set(rest):
        raise UserError("which methods? give --methods, as in --methods sam pia pld")
    if list(named) == ["all"]:
        return [name for name in methods.names() if _needs_only_text(name)]
    names = chosen_methods(named, []) if named else []
    for name in names:
        if reason := methods.why_no_replay(name):
            raise UserError(f"'{name}' cannot be replayed: {reason}")
    return names


def _needs_only_text(name: str) -> bool:
    """No model, nothing of the target, no file of its own?"""
    if name == "vanilla" or methods.why_no_replay(name):
        return False
    return not methods.what_replay_needs(name)


def _add_memory_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--scope", choices=SCOPES, help="how long is remembered; default: its own")
    group.add_argument(
        "--interleave",
        type=int,
        default=1,
        metavar="N",
        help="N samples of a question take turns, as if decoded together",
    )
    group.add_argument("--max-nodes", type=int, help="most nodes of a draft, root included")
    group.add_argument(
        "--sweep",
        nargs="+",
        metavar="OPTION=V,V",
        help="replay every combination of these option values and choose the best",
    )
    group.add_argument(
        "--hold-out",
        type=real,
        default=0.0,
        metavar="SHARE",
        help="choose on the other questions, report on this share of them",
    )


def _add_price_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--costs",
        metavar="FILE",
        help=f"what steps cost: of evaluation.calibrate, or built in: {', '.join(built_in())}",
    )
    group.add_argument(
        "--host-time",
        choices=("on", "off"),
        default="on",
        help="add the drafting time of this machine to the steps' costs?",
    )
    group.add_argument("--export", type=Path, metavar="FILE", help="golden acceptance, JSON")
    group.add_argument(
        "--bounds", action=argparse.BooleanOptionalAction, default=True, help="compute bounds"
    )


def _add_trace_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--samples", type=int, help="at most so many samples of a question")
    group.add_argument("--limit", type=int, help="at most so many questions")
    group.add_argument("--chat", action="store_true", help="prompts are what the user said")
    group.add_argument("--question-file", help="questions of traces that hold no prompts")
    group.add_argument(
        "--paradigm",
        choices=paradigms.names(),
        help="of the traces; default: rounds where there are any, else samples",
    )
    group.add_argument("--temperature", type=real, default=0.0, help="where traces do not tell")
    group.add_argument("--skip-bad-lines", action="store_true", help="leave malformed lines out")
    for field in fields(Fields):
        flag = f"--{field.name.replace('_', '-')}-field"
        dest = f"field_{field.name}"
        group.add_argument(flag, dest=dest, default=field.default, help=HELP[field.name])


if __name__ == "__main__":
    run_command(main)()
