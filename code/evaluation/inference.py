"""Run one method over a benchmark's questions and record every generation.

    python -m evaluation.inference --method pld --model-path mini --paradigm best_of_n --temperature 0.6

Knows the order of things (flags, questions, model, drafter, records) and leaves each to its module.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

from evaluation import manifest, paradigms, tasks
from evaluation.cli import (
    ALIASES,
    Parser,
    base_parser,
    check_numbers,
    chosen_paradigm,
    config_from,
    device_and_dtype,
    thinking_budget,
)
from evaluation.errors import guarded
from evaluation.eval import Run, Settings, run_questions
from evaluation.progress import Progress
from evaluation.tasks import DATA, Question
from evaluation.writer import RecordWriter
from model import checkpoint, draft
from model.errors import UserError


def parse(argv: list[str], method: str | None = None) -> argparse.Namespace:
    """Flags in two passes: the method first, then everything with the method's options."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", default=method)
    known, rest = first.parse_known_args(argv)
    if known.method is None and not {"-h", "--help"} & set(rest):
        raise UserError(f"which method? give --method NAME, one of: {', '.join(draft.names())}")
    name = ALIASES.get(known.method, known.method)
    parser = base_parser(name)
    parser.add_argument("--method", default=name, help=f"one of {', '.join(draft.names())}, sam[METHOD]")
    args = parser.parse_args(rest)
    args.method = name
    return args


def select(questions: list[Question], args: argparse.Namespace) -> list[Question]:
    """The slice asked for."""
    chosen = questions[args.question_begin:args.question_end]
    if not chosen:
        raise UserError(f"--question-begin {args.question_begin} --question-end {args.question_end} leaves none of the"
                        f" {len(questions)} questions")
    return chosen


def model_id(args: argparse.Namespace, suffix: str = "") -> str:
    """The run's name: given (with what some published launchers append), or model, method, temperature."""
    if args.model_id:
        return args.model_id + suffix.format(**vars(args))
    return f"{Path(args.model_path).name}-{args.method}-temperature-{args.temperature:g}"


def answer_file(args: argparse.Namespace, paradigm: str, name: str) -> Path:
    """Where the records go."""
    if args.answer_file:
        if not args.answer_file.endswith(".jsonl"):
            raise UserError(f"--answer-file must end in .jsonl, not '{args.answer_file}'")
        return Path(args.answer_file)
    folder = {"best_of_n": "model_answer_BON", "multi_round": "model_answer"}.get(paradigm, f"model_answer_{paradigm}")
    return DATA / args.bench_name / folder / f"{name}.jsonl"


def build_run(args: argparse.Namespace, questions: list[Question], workers: int = 1) -> tuple[Run, dict[str, Any]]:
    """Load model and drafter; returns the run and the settings its records depend on.

    With `workers` above 1 what is remembered over a run is remembered by each worker for itself, and recorded so.
    """
    paradigm_name = chosen_paradigm(args)
    paradigm = paradigms.load(paradigm_name)
    paradigm_config = config_from(paradigm.Config, args)
    budget = thinking_budget(args.thinking_budget)
    device, dtype = device_and_dtype(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    options = {f.name: getattr(args, f.name) for t in draft.config_types(args.method) for f in dataclasses.fields(t)}
    device_map = args.device_map or ("auto" if args.num_gpus_per_model > 1 and device.startswith("cuda") else None)
    loaded = checkpoint.load(args.model_path, dtype, device, args.chat_template, device_map, args.max_new_tokens * 5 // 4 + 1024,
                             args.engine)
    drafter = draft.load(args.method, loaded.target, options)
    if args.memory_scope:
        drafter.remember(args.memory_scope)
    scope = f"run (each of {workers} workers)" if drafter.scope == "run" and workers > 1 else drafter.scope
    settings = Settings(args.method, paradigm_name, args.model_id, args.temperature, args.max_new_tokens, args.seed,
                        args.num_choices, scope, budget, args.max_nodes, args.warmup, args.sampling_top_k,
                        args.sampling_top_p)
    run = Run(settings, loaded, drafter, paradigm, paradigm_config)
    run.check(questions)
    run.prepare(questions)
    return run, {**dataclasses.asdict(settings), "engine": loaded.target.engine, "options": options,
                 "paradigm_options": dataclasses.asdict(paradigm_config),
                 "dtype": dtype, "family": loaded.family.name, "bench": args.bench_name,
                 "question_file": args.question_file, "subset": args.subset}


def main_for(method: str | None = None, argv: list[str] | None = None, suffix: str = "") -> int:
    """The whole program; launchers of one method pass its name."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv, method)
    args.model_id = model_id(args, suffix)
    check_numbers(args)
    _, questions = tasks.load(args.bench_name, args.question_file, args.subset)
    questions = select(questions, args)
    path = answer_file(args, chosen_paradigm(args), args.model_id)
    if args.workers or args.ray_address or (args.num_gpus_total or 0) > args.num_gpus_per_model:
        from evaluation.pool import placement, run_pool

        return run_pool(args, argv, questions, placement(args), path)
    run, settings = build_run(args, questions)
    book = manifest.build(settings, argv, run.loaded, questions)
    with RecordWriter(path, book, run.generations) as writer:
        for notice in writer.notices:
            print(notice)
        done = sum(q.id in writer.done for q in questions)
        if done:
            print(f"{path}: {done} of {len(questions)} questions are done already")
        label = f"{args.method} {run.settings.paradigm} T={args.temperature:g}"
        progress = Progress(label, len(questions), done)
        try:
            run_questions(run, questions, writer, progress)
        finally:
            progress.close()
    print(f"records: {path}")
    return 0


if __name__ == "__main__":
    guarded(main_for)()
