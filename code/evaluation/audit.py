"""Audit a server with speculation: against the same one without, or against our own engine.

    python -m evaluation.audit --base-url http://127.0.0.1:8000 --against http://127.0.0.1:8001
    python -m evaluation.audit --base-url http://127.0.0.1:8000 --reference mini

One verdict a line: does the same request repeat, are greedy texts those without speculation (or
part at a tie), are seeds honoured, are the first tokens and the samples' lengths and accuracy
distributed alike? The report of a folder that holds the audit shows it. Exit code 3 where a word is
broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

from evaluation import tasks
from evaluation.command import Parser, at_least, real, run_command, summary
from evaluation.records.audits import AUDIT_FILE
from evaluation.records.writer import write_atomically
from evaluation.report.formatting import Table
from evaluation.running.progress import bar
from evaluation.serving.asking import answer_of
from evaluation.serving.audit import BREAKS, Audit, Finding, Reference, ServerSource, Source
from evaluation.serving.client import Client, Patience, Reply
from evaluation.serving.connecting import add_server_flags, chosen_model
from evaluation.serving.engines import recognised
from evaluation.serving.server import Service
from evaluation.tasks import Question
from model import checkpoint, methods
from model.errors import UserError

BROKEN = 3
HEADER = ("check", "verdict", "found")


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(sys.argv[1:] if argv is None else argv)
    task, questions = tasks.load(args.bench_name, args.question_file)
    source = _server(args.base_url, args)
    against = _against(args)
    audit = Audit(
        source,
        against,
        questions[: args.questions],
        args.temperature,
        args.max_new_tokens,
        args.seeds,
        args.tie,
        args.concurrency,
        lambda question, text: _is_right(task, question, text, args.end_think),
    )
    print(f"{source.name} against {against.name}", file=sys.stderr)
    progress = bar("audit", audit.requests, 0, unit="request")
    try:
        findings = replace(audit, on_reply=lambda: progress.update(1)).findings()
    finally:
        progress.close()
    rows = [(found.check, found.verdict, found.detail) for found in findings]
    print(Table("", HEADER, rows).text())
    file = args.out / AUDIT_FILE
    write_atomically(file, _as_json(source, against, findings))
    print(f"\naudit: {file}")
    return BROKEN if any(found.verdict == BREAKS for found in findings) else 0


def _as_json(source: Source, against: Source, findings: Sequence[Finding]) -> str:
    data = {
        "server": source.name,
        "against": against.name,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "findings": [asdict(found) for found in findings],
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _server(base_url: str, args: argparse.Namespace) -> ServerSource:
    client = Client(base_url, Patience(args.timeout, args.retries))
    model = chosen_model(client, args.model)
    engine, _ = recognised(client)
    return ServerSource(client, engine, model)


def _against(args: argparse.Namespace) -> Source:
    if args.against:
        return _server(args.against, args)
    loaded = checkpoint.load(args.reference, args.dtype, args.device)
    drafter = methods.load("vanilla", loaded.model)
    return Reference(Service(loaded, drafter, Path(args.reference).name, "vanilla"))


def _is_right(task: ModuleType, question: Question, text: str, end_think: str) -> bool | None:
    """None where the task knows no answer; a text that was cut before one is wrong."""
    final = answer_of(Reply(text=text), end_think).final
    right: bool | None = task.check(final or "", question)
    return right


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description=summary(__doc__),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--base-url", required=True, help="the server that speculates")
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument("--against", metavar="URL", help="the same one without speculation")
    other.add_argument("--reference", metavar="PATH", help="its checkpoint, run by our own engine")
    parser.add_argument("--dtype", default="float32", choices=sorted(checkpoint.DTYPES))
    parser.add_argument("--device", default="cpu", help="of the reference")
    add_server_flags(parser)
    parser.add_argument("--bench-name", default="mini")
    parser.add_argument("--question-file")
    parser.add_argument("--questions", type=int, default=4, help="how many are asked")
    parser.add_argument("--seeds", type=int, default=200, help="for distributions")
    parser.add_argument("--temperature", type=real, default=0.6)
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument(
        "--tie",
        type=real,
        default=0.2,
        help="nats between the two best tokens up to which texts may part: bfloat16 logits of 16"
        " to 32 are 1/8 apart; 0.001 in float32",
    )
    parser.add_argument("--concurrency", type=int, default=1, metavar="C")
    parser.add_argument("--end-think", default="</think>", metavar="TEXT")
    parser.add_argument("--out", type=Path, default=Path("data/audit"), help="a folder")
    args = parser.parse_args(argv)
    at_least(args, 1, "questions", "seeds", "max_new_tokens", "concurrency")
    at_least(args, 0, "retries", "tie")
    if args.temperature <= 0:
        raise UserError("--temperature must be above 0: the greedy checks are made anyway")
    return args


if __name__ == "__main__":
    run_command(main)()
