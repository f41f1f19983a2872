"""Write records in the published benchmark's trace format.

python -m evaluation.records export FILE --out FILE
"""

from __future__ import annotations

import json
from pathlib import Path

from evaluation.command import Parser, run_command, summary
from evaluation.records.reading import read_records
from evaluation.records.traces import to_traces
from evaluation.records.writer import write_atomically


def main() -> int:
    parser = Parser(description=summary(__doc__))
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="records to the published trace format")
    export.add_argument("file", type=Path)
    export.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = to_traces(read_records(args.file))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(args.out, text)
    print(f"{args.out}: {len(lines)} questions")
    return 0


if __name__ == "__main__":
    run_command(main)()
