"""Serve a model with one method of drafting, one request at a time, over OpenAI's protocol.

    python -m evaluation.serve --model-path mini --method sam --port 8000

`/v1/chat/completions` and `/v1/completions`, streamed or not, with seeds, log-probabilities and
token ids; every reply says its steps. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.command import Parser, run_command, summary
from evaluation.running.build import load_alone, resolved_model
from evaluation.running.cli import add_model_flags, method_configs, model_spec, nodes
from evaluation.running.options import add_options
from evaluation.serving.server import Server, Service
from model import methods
from model.contract import NO_CAP

DEFAULT_METHOD = "vanilla"


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parse(words)
    spec = resolved_model(model_spec(args))
    loaded = load_alone(spec)
    drafter = methods.build(args.method, loaded.model, method_configs(args.method, args))
    drafter.enter("run", "serve")
    name = args.name or Path(args.model_path).name
    service = Service(loaded, drafter, name, args.method, args.max_nodes)
    server = Server(service, args.host, args.port)
    host, port = server.server_address[:2]
    print(
        f"serving {name} with {args.method} at http://{host!s}:{port}; Ctrl-C ends it", flush=True
    )
    try:
        server.serve_forever()
    finally:
        server.server_close()
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", default=DEFAULT_METHOD)
    method = first.parse_known_args(argv)[0].method
    types = methods.config_types(method)
    parser = Parser(
        description=summary(__doc__),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add_model_flags(parser.add_argument_group("model"))
    drafting = parser.add_argument_group("drafting")
    drafting.add_argument("--method", default=DEFAULT_METHOD, help="any method of a run")
    drafting.add_argument(
        "--max-nodes", type=nodes, default=NO_CAP, metavar="N", help="most nodes of a draft"
    )
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="0.0.0.0: reachable from elsewhere")
    server.add_argument("--port", type=int, default=8000, help="0: any that is free")
    server.add_argument("--name", help="name the model is served by; default: its folder's")
    add_options(parser.add_argument_group(f"options of {method}"), types)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)()
