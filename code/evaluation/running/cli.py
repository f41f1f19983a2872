"""The flags of launchers, the published names among them, parsed into one RunSpec."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation import paradigms
from evaluation.command import Parser, real
from evaluation.running.options import add_options, config_from, method_configs
from evaluation.running.spec import (
    ALL,
    GenerationSpec,
    MethodSpec,
    ModelSpec,
    ParadigmSpec,
    QuestionsSpec,
    RunSpec,
    WorkersSpec,
)
from model import methods
from model.contract import NO_CAP, SCOPES
from model.engine import backends
from model.errors import UserError

METHOD_ALIASES = {"baseline": "vanilla"}
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
PUBLISHED_SWITCHES = ("--use-cot-data", "--load-in-8bit")
PUBLISHED_FLAGS = (
    "--tree-choices",
    "--attn_implementation",
    "--tree_version",
    "--samd_len_bias",
    "--samd_tree_path",
)


class _Unused(argparse.Action):
    """A published flag that has no effect here: accepted, and said so."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        unused = getattr(namespace, "unused_flags", [])
        namespace.unused_flags = [*unused, option_string]


def parse(argv: Sequence[str], method: str | None = None, suffix: str = "") -> RunSpec:
    """The specification on a command line; launchers of one method pass its name.

    `suffix` is what some published launchers append to a given --model-id, with fields in braces.
    Raises UserError for unknown flags and for values that make no sense.
    """
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", default=method)
    chosen, rest = first.parse_known_args(argv)
    if chosen.method is None and not {"-h", "--help", "--version"} & set(rest):
        known = ", ".join(methods.names())
        raise UserError(f"which method? give --method NAME, one of: {known}")
    name = METHOD_ALIASES.get(chosen.method, chosen.method)
    names = (name,) if name else ()
    args = launcher_parser(names).parse_args(rest)
    note_unused(args)
    return spec_of(name, args, **_fields_of(suffix, args))


def _fields_of(suffix: str, args: argparse.Namespace) -> dict[str, str]:
    """The launcher's suffix of a run's name, its fields filled in."""
    return {"suffix": suffix.format(**vars(args))} if suffix else {}


def note_unused(args: argparse.Namespace) -> None:
    """Say which published flags have no effect."""
    unused = dict.fromkeys(getattr(args, "unused_flags", []))
    if unused:
        verb = "has" if len(unused) == 1 else "have"
        print(
            f"note: {', '.join(unused)} {verb} no effect: accepted for old command lines",
            file=sys.stderr,
        )


def launcher_parser(names: tuple[str, ...], description: str = "") -> Parser:
    """The flags every launcher has, with the options of these methods and of all paradigms."""
    method = names[0] if len(names) == 1 else None
    what = description or (
        f"Run {method or 'a method'} over a benchmark's questions and record every generation."
    )
    parser = Parser(
        description=what,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    if len(names) < 2:
        known = ", ".join(methods.names())
        help = f"one of {known}, sam[METHOD]; for several see --methods"
        parser.add_argument("--method", default=method, help=help)
    add_model_flags(parser.add_argument_group("model"))
    add_question_flags(parser.add_argument_group("questions"))
    generation = parser.add_argument_group("generation")
    add_generation_flags(generation)
    _add_thinking_flag(generation)
    paradigm = parser.add_argument_group("paradigm")
    add_paradigm_flags(paradigm)
    _add_parallel_flags(paradigm)
    _add_drafting_flags(parser.add_argument_group("drafting"))
    _add_output_flags(parser.add_argument_group("records"))
    if names:
        types = [kind for name in names for kind in methods.config_types(name)]
        add_options(parser.add_argument_group(f"options of {', '.join(names)}"), types)
    _add_worker_flags(parser.add_argument_group("several workers (Ray)"))
    _add_published_flags(parser.add_argument_group("accepted for old command lines"), method)
    return parser


def add_model_flags(group: Any) -> None:
    """Of every command that loads a model."""
    group.add_argument(
        "--model-path",
        "--base-model-path",
        required=True,
        metavar="PATH",
        help="checkpoint folder, hub id, or 'mini' for the family in the repository",
    )
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "float64", "float16", "bfloat16"),
        help="auto: float32 on a CPU, bfloat16 on a GPU",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    group.add_argument(
        "--engine",
        default="auto",
        metavar="NAME",
        help=f"how forwards run: {', '.join(backends.names())}; auto: the fastest that works here",
    )
    group.add_argument(
        "--device-map", help="how accelerate places a model that needs several GPUs, e.g. auto"
    )
    group.add_argument(
        "--chat-template", metavar="FILE", help="a Jinja chat template, for tokenizers without one"
    )
    group.add_argument(
        "--threads",
        type=int,
        default=0,
        help="CPU threads; 0: as many as run a step fastest, measured",
    )


def add_question_flags(group: Any) -> None:
    """Which questions are asked."""
    group.add_argument(
        "--bench-name",
        help="a task, or a folder of data/ with a question file; default: the name of"
        " --question-file, else mini",
    )
    group.add_argument(
        "--question-file", metavar="FILE", help="a question file of your own (JSON lines)"
    )
    group.add_argument(
        "--subset",
        default="all",
        help="'all', or 'published': the first 30, as in the published benchmark",
    )
    group.add_argument("--question-begin", type=int, help="first question, counted from 0")
    group.add_argument(
        "--question-end", type=int, help="end of the questions, as in a Python slice"
    )

    group.add_argument(
        "--allow-special",
        action="store_true",
        help="encode the text of special tokens in a question as these tokens, not as text",
    )
    group.add_argument(
        "--answer-instruction",
        nargs="?",
        const=BOXED,
        metavar="TEXT",
        help="add to every question (not in the published protocol), so that models that are not"
        f" trained to do so box their answer; without TEXT: {BOXED}".replace("{}", "{...}"),
    )


def add_generation_flags(group: Any) -> None:
    """Budget, sampling, seed."""
    group.add_argument(
        "--max-new-tokens", type=int, default=1024, help="token budget of one generation"
    )
    group.add_argument("--temperature", type=real, default=0.0, help="0: the likeliest token")
    group.add_argument(
        "--sampling-top-k", type=int, default=0, help="sample from the k likeliest; 0: from all"
    )
    group.add_argument(
        "--sampling-top-p",
        "--top-p",
        type=real,
        default=1.0,
        help="sample from the nucleus of this mass; 0 or 1: from all",
    )
    group.add_argument("--seed", type=int, default=0, help="equal seeds give equal texts")


def _add_thinking_flag(group: Any) -> None:
    group.add_argument(
        "--thinking-budget",
        default="0.8",
        help="share of the token budget after which thinking is ended by force, or 'off'",
    )


def add_paradigm_flags(group: Any) -> None:
    """How a question is asked several times."""
    known = ", ".join(paradigms.names())
    group.add_argument("--paradigm", help=f"one of {known}; default multi_round")
    group.add_argument("--think-twice", action="store_true", help="same as --paradigm multi_round")
    group.add_argument("--BON", action="store_true", help="same as --paradigm best_of_n")
    group.add_argument("--num-choices", type=int, default=1, help="repeats of the whole paradigm")
    add_options(group, [paradigms.load(name).Config for name in paradigms.names()])


def _add_parallel_flags(group: Any) -> None:
    group.add_argument(
        "--parallel",
        type=parallel,
        default=1,
        metavar="P",
        help="decode P samples of a question in one forward, or 'all'; the texts stay the same",
    )
    group.add_argument(
        "--max-rows",
        type=int,
        metavar="N",
        help="most nodes of one forward, shared by the samples under way: equally, or, where a"
        " method knows how likely its nodes are, the likeliest of all of them",
    )


def _add_drafting_flags(group: Any) -> None:
    group.add_argument(
        "--memory-scope",
        choices=SCOPES,
        help="how long a drafter remembers; default: the method's",
    )
    group.add_argument(
        "--max-nodes",
        type=nodes,
        metavar="N",
        help="most nodes of any draft, root included; 'none': each method's own budget; default:"
        " on a GPU none, on a CPU as many as pay, measured",
    )


def nodes(text: str) -> int:
    """The value of --max-nodes."""
    return NO_CAP if text == "none" else int(text)


def parallel(text: str) -> int:
    """The value of --parallel."""
    if text == "all":
        return ALL
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"'all' or at least 1, not {number}")
    return number


def _add_output_flags(group: Any) -> None:
    group.add_argument("--model-id", help="name of this run; default: model, method, temperature")
    group.add_argument(
        "--answer-file",
        metavar="FILE",
        help="records file; default data/<bench>/model_answer[_BON]/<id>.jsonl",
    )
    group.add_argument(
        "--warmup", type=int, default=1, help="short passes over the first question, not recorded"
    )
    group.add_argument(
        "--record-topk",
        type=int,
        default=0,
        help="record so many of the target's likeliest tokens after every emitted one, for replays",
    )
    group.add_argument(
        "--record-drafts",
        action="store_true",
        help="record the nodes drafted at every step, for the report's viewer",
    )


def _add_worker_flags(group: Any) -> None:
    group.add_argument(
        "--workers", type=int, default=0, help="CPU processes of one thread each, on this machine"
    )
    group.add_argument("--num-gpus-total", type=real, help="GPUs of all workers together")
    group.add_argument(
        "--num-gpus-per-model", type=real, default=1, help="GPUs a worker's model is placed on"
    )
    group.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="a running Ray cluster; 'auto': the one on this machine",
    )


def _add_published_flags(group: Any, method: str | None) -> None:
    unused = {"action": _Unused, "default": argparse.SUPPRESS}
    for flag in PUBLISHED_SWITCHES:
        group.add_argument(flag, nargs=0, help="no effect", **unused)
    for flag in PUBLISHED_FLAGS:
        group.add_argument(flag, help="no effect", **unused)
    parts = [part.name for part in methods.parse(method).parts()] if method else []
    if method and method.startswith("sam") and "sam" not in parts:
        why = "no effect beside a tree drafter (the published scripts use none)"
        group.add_argument("--static_sam_path", help=why, **unused)
    if method == "vanilla":
        why = "no effect: vanilla decoding loads no draft head"
        group.add_argument("--ea-model-path", help=why, **unused)


def model_spec(args: argparse.Namespace) -> ModelSpec:
    """Of the flags of `add_model_flags`; raises UserError for an engine that is not there."""
    known = ("auto", *backends.names(), *backends.NAMES_BEFORE)
    if args.engine not in known:
        raise UserError(
            f"--engine is one of auto, {', '.join(backends.names())}, not '{args.engine}'"
        )
    return ModelSpec(
        path=args.model_path,
        dtype=args.dtype,
        device=args.device,
        engine=args.engine,
        device_map=args.device_map,
        chat_template=args.chat_template,
        threads=args.threads,
    )


def spec_of(
    name: str, args: argparse.Namespace, suffix: str = "", method: str | None = None
) -> RunSpec:
    """The specification of parsed flags; `method` takes the place of {method} in names.

    `suffix` is appended to a given --model-id.
    """
    model_id = f"{Path(args.model_path).name}-{name}-temperature-{args.temperature:g}"
    if args.model_id:
        model_id = args.model_id + suffix
    answer_file = args.answer_file
    if method:
        model_id = model_id.replace("{method}", method)
        answer_file = answer_file and answer_file.replace("{method}", method)
    return RunSpec(
        model=model_spec(args),
        questions=questions_spec(args),
        method=MethodSpec(
            name=name,
            configs=method_configs(name, args),
            memory_scope=args.memory_scope,
            max_nodes=args.max_nodes,
        ),
        paradigm=paradigm_spec(args),
        generation=generation_spec(args, thinking_budget(args.thinking_budget)),
        model_id=model_id,
        workers=WorkersSpec(
            workers=args.workers,
            gpus_total=args.num_gpus_total,
            gpus_per_model=args.num_gpus_per_model,
            ray_address=args.ray_address,
        ),
        answer_file=answer_file,
        warmup=args.warmup,
        record_topk=args.record_topk,
        record_drafts=args.record_drafts,
        parallel=args.parallel,
        max_rows=args.max_rows,
    )


def questions_spec(args: argparse.Namespace) -> QuestionsSpec:
    """Of the flags of `add_question_flags`."""
    return QuestionsSpec(
        bench=args.bench_name or bench_of(args.question_file),
        question_file=args.question_file,
        subset=args.subset,
        allow_special=args.allow_special,
        answer_instruction=args.answer_instruction,
        begin=args.question_begin,
        end=args.question_end,
    )


def paradigm_spec(args: argparse.Namespace) -> ParadigmSpec:
    """Of the flags of `add_paradigm_flags`."""
    name = chosen_paradigm(args)
    config = config_from(paradigms.load(name).Config, args)
    return ParadigmSpec(name=name, config=config, num_choices=args.num_choices)


def generation_spec(args: argparse.Namespace, budget: float | None) -> GenerationSpec:
    """Of the flags of `add_generation_flags`, with a thinking budget."""
    return GenerationSpec(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        sampling_top_k=args.sampling_top_k,
        sampling_top_p=args.sampling_top_p or 1.0,
        seed=args.seed,
        thinking_budget=budget,
    )


def bench_of(question_file: str | None) -> str:
    """The benchmark's name where none is given: a question file's own, so that its records get a
    folder of their own."""
    return Path(question_file).stem if question_file else "mini"


def chosen_paradigm(args: argparse.Namespace) -> str:
    """--paradigm, else --think-twice, else --BON, else multi_round.

    --think-twice wins over --BON, as in the published benchmark.
    """
    if args.paradigm:
        return args.paradigm
    return "best_of_n" if args.BON and not args.think_twice else "multi_round"


def thinking_budget(text: str) -> float | None:
    """'off' or a share between 0 and 1; raises UserError for anything else."""
    if text == "off":
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise UserError(
            f"--thinking-budget is 'off' or a share above 0 and at most 1, not '{text}'"
        )
    return share
