"""Run a benchmark's questions against an engine that serves: vLLM, SGLang, llama-server, others.

    python -m evaluation.engine --base-url http://127.0.0.1:8000 --method ngram \\
        --bench-name mini --paradigm best_of_n --temperature 0.6 --concurrency 4
    python -m evaluation.engine --engine-lib vllm --model FOLDER --method vanilla

`--method` names what the server was started with, `vanilla` for no speculation: a run is compared
with the same engine's vanilla. Acceptance is recorded as far as the engine tells, converted to ours
(`serving/engines/`). A key is read from SPECTTS_API_KEY or OPENAI_API_KEY.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from evaluation import paradigms
from evaluation.command import Parser, at_least, run_command, summary
from evaluation.running.cli import (
    add_generation_flags,
    add_paradigm_flags,
    add_question_flags,
    generation_spec,
    paradigm_spec,
    questions_spec,
)
from evaluation.running.questions import load_questions
from evaluation.running.spec import MethodSpec, ModelSpec, RunSpec
from evaluation.serving import engines, libraries, loop
from evaluation.serving.asking import Asked, EngineRunner, Serving
from evaluation.serving.client import Client, Patience
from evaluation.serving.connecting import add_server_flags, chosen_model
from evaluation.serving.engines import About
from model.errors import UserError, printable

AS_SERVED = "as served"


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parse(words)
    client: Asked
    if args.engine_lib:
        client = libraries.load(args.engine_lib, args.model, args.lib_options)
    else:
        client = Client(args.base_url, Patience(args.timeout, args.retries))
    try:
        serving, about = connected(client, args)
        spec = spec_of(args, serving, about)
        questions = load_questions(spec.questions)
        runner = EngineRunner(
            spec, serving, paradigms.load(spec.paradigm.name), args.concurrency, args.device_name
        )
        return loop.run(runner, about, words, questions, args.warmup)
    finally:
        client.close()


def connected(client: Asked, args: argparse.Namespace) -> tuple[Serving, About]:
    """Who is asked, and what it says of itself; raises UserError for a model it does not serve."""
    if isinstance(client, libraries.Library):
        engine, about = engines.load(client.engine), client.about()
        _tell(engine, about, args.model)
        return Serving(client, engine, args.model, False, args.end_think), about
    model = chosen_model(client, args.model)
    engine, about = engines.recognised(client)
    _tell(engine, about, model)
    return Serving(client, engine, model, args.stream, args.end_think), about


def _tell(engine: engines.Engine, about: About, model: str) -> None:
    settings = ", ".join(f"{name} {value}" for name, value in about.settings.items())
    words = f"engine: {engine.name} {about.version}, model {model}"
    print(printable(f"{words}; {settings}" if settings else words), file=sys.stderr)


def spec_of(args: argparse.Namespace, serving: Serving, about: About) -> RunSpec:
    """What is run, as in every other run."""
    name = serving.model.rstrip("/").rsplit("/", 1)[-1]
    default = f"{serving.engine.name}-{name}-{args.method}-temperature-{args.temperature:g}"
    return RunSpec(
        model=ModelSpec(
            path=serving.model,
            dtype=AS_SERVED,
            engine=f"{serving.engine.name} {about.version}".rstrip(),
        ),
        questions=questions_spec(args),
        method=MethodSpec(name=args.method, configs=()),
        paradigm=paradigm_spec(args),
        generation=generation_spec(args, budget=None),
        model_id=args.model_id or default,
        answer_file=args.answer_file,
        warmup=args.warmup,
        parallel=args.concurrency,
    )


def json_object(text: str) -> dict[str, Any]:
    """A flag's JSON object."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description=summary(__doc__),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    server = parser.add_argument_group("server")
    where = server.add_mutually_exclusive_group(required=True)
    where.add_argument("--base-url", help="its address, without /v1")
    where.add_argument(
        "--engine-lib", metavar="NAME", help=f"no server, a library: {', '.join(libraries.names())}"
    )
    server.add_argument(
        "--lib-options",
        type=json_object,
        default={},
        metavar="JSON",
        help="""what the library is made with, as in '{"speculative_config": {...}}'""",
    )
    add_server_flags(server)
    server.add_argument(
        "--method", required=True, help="what it was started with: vanilla, ngram, eagle3, ..."
    )
    server.add_argument(
        "--concurrency", type=int, default=1, metavar="C", help="requests in flight"
    )
    server.add_argument(
        "--device-name", default="", metavar="TEXT", help="what it runs on, for tables: H100, ..."
    )
    server.add_argument(
        "--no-stream", dest="stream", action="store_false", help="ask for whole replies"
    )
    server.add_argument(
        "--end-think",
        default="</think>",
        metavar="TEXT",
        help="text that ends thinking; '' for a model that does not think",
    )
    add_question_flags(parser.add_argument_group("questions"))
    add_generation_flags(parser.add_argument_group("generation"))
    add_paradigm_flags(parser.add_argument_group("paradigm"))
    output = parser.add_argument_group("records")
    output.add_argument("--model-id", help="name of this run; default: engine, model, method")
    output.add_argument("--answer-file", metavar="FILE", help="records file")
    output.add_argument("--warmup", type=int, default=1, help="short requests before, not recorded")
    args = parser.parse_args(argv)
    at_least(args, 1, "concurrency")
    at_least(args, 0, "retries", "warmup")
    if args.engine_lib and not args.model:
        raise UserError("--engine-lib needs --model: the checkpoint's folder or hub id")
    if args.timeout <= 0:
        raise UserError(f"--timeout must be above 0, not {args.timeout:g}")
    return args


if __name__ == "__main__":
    run_command(main)()
