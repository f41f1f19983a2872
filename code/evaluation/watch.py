"""Watch runs: a small local page with methods done and to do, speed, acceptance, failures, load.

    python -m evaluation.watch data/mini

It reads the records as they come, of a run in any other process or of one that is over, and changes
nothing. The page is for this machine alone; Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.command import Parser, run_command, summary
from evaluation.report.watching import WatchServer
from model.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(sys.argv[1:] if argv is None else argv)
    server = WatchServer(args.folder, args.port)
    host, port = server.server_address[:2]
    print(f"watching {args.folder} at http://{host!s}:{port}; Ctrl-C ends it", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description=summary(__doc__), allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="a folder with records below it, now or soon")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    args = parser.parse_args(argv)
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is not a folder")
    return args


if __name__ == "__main__":
    run_command(main)()
