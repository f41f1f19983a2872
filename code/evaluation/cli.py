"""The flags all launchers share, the original's names among them, and the checks of their values."""

import argparse
import dataclasses
from typing import Any

import torch

from evaluation import paradigms
from model import draft
from model.engine.target import ENGINES
from model.errors import UserError

ALIASES = {"baseline": "vanilla"}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are the one line users get everywhere."""

    def error(self, message: str) -> None:
        raise UserError(f"{message} (see --help)")


def base_parser(method: str | None) -> Parser:
    """The flags every launcher has, with the options of `method` and of all paradigms."""
    parser = Parser(description=f"Run {method or 'a method'} over a benchmark's questions and record every generation.",
                    formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    model_flags(parser.add_argument_group("model"))
    _run_flags(parser.add_argument_group("run"))
    _paradigm_flags(parser.add_argument_group("paradigm"))
    if method:
        options = parser.add_argument_group(f"options of {method}")
        for config in draft.config_types(method):
            option_flags(options, config)
    _worker_flags(parser.add_argument_group("several workers (Ray)"))
    _legacy_flags(parser.add_argument_group("accepted for old command lines"), method)
    return parser


def model_flags(group: Any) -> None:
    group.add_argument("--model-path", "--base-model-path", required=True, metavar="PATH",
                       help="checkpoint folder, hub id, or 'mini' for the family in the repository")
    group.add_argument("--model-id", help="name of this run; default: model, method, temperature")
    group.add_argument("--dtype", default="auto", choices=("auto", "float32", "float64", "float16", "bfloat16"),
                       help="auto: float32 on a CPU, bfloat16 on a GPU")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    group.add_argument("--engine", default="auto", choices=ENGINES,
                       help="how forwards run: eager, graph (recorded; CUDA graphs on a GPU), compile (CUDA graphs of fused"
                            " operations); auto: the fastest that works, graph on a CPU, compile on a GPU")
    group.add_argument("--device-map", help="how accelerate places a model that needs several GPUs, e.g. auto")
    group.add_argument("--chat-template", metavar="FILE", help="a Jinja chat template, for tokenizers without one")
    group.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as many as PyTorch takes")


def _run_flags(group: Any) -> None:
    group.add_argument("--bench-name", default="mini", help="a task, or a folder of data/ with a question file")
    group.add_argument("--question-file", metavar="FILE", help="a question file of your own (JSON lines)")
    group.add_argument("--subset", default="all", help="'all', or 'published': the first 30, as in the published benchmark")
    group.add_argument("--question-begin", type=int, help="first question, counted from 0")
    group.add_argument("--question-end", type=int, help="end of the questions, as in a Python slice")
    group.add_argument("--answer-file", metavar="FILE",
                       help="records file; default data/<bench>/model_answer[_BON]/<id>.jsonl")
    group.add_argument("--max-new-tokens", type=int, default=1024, help="token budget of one generation")
    group.add_argument("--temperature", type=float, default=0.0)
    group.add_argument("--sampling-top-k", type=int, default=0, help="sample from the k likeliest tokens; 0: from all")
    group.add_argument("--sampling-top-p", "--top-p", type=float, default=1.0,
                       help="sample from the nucleus of this mass; 0 or 1: from all")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--num-choices", type=int, default=1, help="repeats of the whole paradigm")
    group.add_argument("--thinking-budget", default="0.8", help="share of the token budget after which thinking is"
                                                                " ended by force, or 'off'")
    group.add_argument("--memory-scope", choices=draft.LEVELS, help="how long a drafter remembers; default: the method's")
    group.add_argument("--max-nodes", type=int, default=1 << 20, help="most nodes of any draft, root included")
    group.add_argument("--warmup", type=int, default=1, help="short passes over the first question, not recorded")


def _paradigm_flags(group: Any) -> None:
    group.add_argument("--paradigm", help=f"one of {', '.join(paradigms.names())}; default multi_round")
    group.add_argument("--think-twice", action="store_true", help="same as --paradigm multi_round")
    group.add_argument("--BON", action="store_true", help="same as --paradigm best_of_n")
    for name in paradigms.names():
        option_flags(group, paradigms.load(name).Config)


def option_flags(group: Any, config: type) -> None:
    for field in dataclasses.fields(config):
        flag = "--" + field.name.replace("_", "-")
        flags = [flag, *field.metadata.get("flags", ())]
        kind = type(field.default)
        extra: dict[str, Any] = {"type": kind if field.default is not None else str}
        if kind is bool:
            extra = {"action": argparse.BooleanOptionalAction}
        group.add_argument(*flags, dest=field.name, default=field.default, help=field.metadata.get("help", ""), **extra)


def _worker_flags(group: Any) -> None:
    group.add_argument("--workers", type=int, default=0, help="CPU processes of one thread each, on this machine")
    group.add_argument("--num-gpus-total", type=float, help="GPUs of all workers together")
    group.add_argument("--num-gpus-per-model", type=float, default=1, help="GPUs a worker's model is placed on")
    group.add_argument("--ray-address", metavar="HOST:PORT", help="a running Ray cluster; 'auto': the one on this machine")


def _legacy_flags(group: Any, method: str | None) -> None:
    for flag in ("--use-cot-data", "--load-in-8bit"):
        group.add_argument(flag, action="store_true", help="not needed")
    for flag in ("--tree-choices", "--attn_implementation", "--tree_version", "--samd_len_bias", "--samd_tree_path"):
        group.add_argument(flag, help="not needed")
    if method and method.startswith("sam") and method != "sam":
        group.add_argument("--static_sam_path", help="not used beside a tree drafter (the published scripts use none)")
    if method == "vanilla":
        group.add_argument("--ea-model-path", help="not needed: vanilla decoding loads no draft head")


def chosen_paradigm(args: argparse.Namespace) -> str:
    """--paradigm, else --think-twice, else --BON, else multi_round (--think-twice wins, as in the original)."""
    if args.paradigm:
        return args.paradigm
    return "best_of_n" if args.BON and not args.think_twice else "multi_round"


def config_from(config: type, args: argparse.Namespace) -> Any:
    """An option dataclass from parsed flags; what it refuses is the user's mistake."""
    try:
        return config(**{f.name: getattr(args, f.name) for f in dataclasses.fields(config)})
    except ValueError as error:
        raise UserError(str(error)) from None


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that make no sense, before anything is loaded."""
    for name, least in (("max_new_tokens", 1), ("num_choices", 1), ("max_nodes", 1), ("warmup", 0), ("temperature", 0),
                        ("sampling_top_k", 0), ("threads", 0), ("workers", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(args, name)}")
    if args.num_gpus_per_model <= 0 or (args.num_gpus_total is not None and args.num_gpus_total <= 0):
        raise UserError("--num-gpus-total and --num-gpus-per-model must be above 0")
    if args.num_gpus_per_model > 1 and args.num_gpus_per_model % 1:
        raise UserError("--num-gpus-per-model above 1 must be a whole number")
    if not 0 <= args.sampling_top_p <= 1:
        raise UserError(f"--sampling-top-p must be between 0 and 1, not {args.sampling_top_p}")
    args.sampling_top_p = args.sampling_top_p or 1.0


def thinking_budget(text: str) -> float | None:
    """'off' or a share between 0 and 1."""
    if text == "off":
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise UserError(f"--thinking-budget is 'off' or a share above 0 and at most 1, not '{text}'")
    return share


def device_and_dtype(args: argparse.Namespace) -> tuple[str, str]:
    """The device asked for or found, and the dtype that suits it."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        index = torch.device(device).index or 0
    except RuntimeError:
        raise UserError(f"--device is cpu, cuda or cuda:N, not '{device}'") from None
    if device.startswith("cuda") and index >= max(1, torch.cuda.device_count()):
        raise UserError(f"--device {device}: PyTorch sees {torch.cuda.device_count()} GPU(s)")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU; use --device cpu, or install a CUDA build of torch")
    dtype = args.dtype if args.dtype != "auto" else ("bfloat16" if device.startswith("cuda") else "float32")
    return device, dtype
