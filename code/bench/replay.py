"""Predicted beside measured: the mini family runs, its vanilla texts are replayed and priced.

    python bench/replay.py [--questions 8]

Runs vanilla and the methods that need no model, measures what verifying n nodes costs (the cost
curve), replays the texts of vanilla with the same drafters, and prices their steps with the curve
and the drafting time of this machine. Predicted and measured speed-ups should agree within 10 %.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

CODE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CODE))

from evaluation.analysis.comparison import gather
from evaluation.analysis.price import read_costs
from evaluation.analysis.replay_summary import FILE, read_summary
from evaluation.analysis.results import setting_result
from evaluation.command import Parser, print_notices, run_command, summary
from evaluation.report import replay_tables, tables

METHODS = ("pld", "sam", "pia", "suffix", "blend", "rest")
MODEL = ("--model-path", "mini", "--threads", "1")
NODES = "16"


def python(*words: str) -> None:
    """A command of the benchmark, in a process of its own."""
    subprocess.run([sys.executable, "-m", *words], cwd=CODE, check=True)


def compare(folder: Path, questions: str, tokens: str) -> None:
    """Run, calibrate, replay, and print both tables."""
    run = ("--paradigm", "best_of_n", "--temperature", "0.6", "--max-new-tokens", tokens)
    shape = ("--question-end", questions, "--max-nodes", NODES)
    files = ("--answer-file", str(folder / "{method}.jsonl"))
    python("evaluation.inference", "--methods", "vanilla", *METHODS, *MODEL, *run, *shape, *files)
    curve = folder / "calibration.json"
    contexts = ("--contexts", "128", "512", "--temperature", "0.6")
    python("evaluation.calibrate", *MODEL, "--out", str(curve), "--repeats", "200", *contexts)
    replayed = folder / "replay"
    words = (str(folder / "vanilla.jsonl"), "--methods", *METHODS, "--max-nodes", NODES)
    python("evaluation.replay", *words, "--out", str(replayed), "--no-bounds", "--workers", "1")
    costs = read_costs(str(curve), with_host=True)
    notices: list[str] = []
    (comparison,) = gather(folder, notices)
    print_notices(notices)
    result = setting_result(comparison, costs.curve)
    for table in replay_tables.beside_measured(
        read_summary(replayed / FILE), costs, [(comparison.setting, result)]
    ):
        print(f"\n{table.title}\n{table.text()}")
    print(f"\n{tables.time(result).text()}")


def main() -> None:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("--questions", default="8", help="of the mini task")
    parser.add_argument("--max-new-tokens", default="640")
    parser.add_argument("--keep", type=Path, help="folder that the records stay in")
    args = parser.parse_args()
    with TemporaryDirectory() as made:
        compare(Path(made), args.questions, args.max_new_tokens)
        if args.keep:
            shutil.copytree(made, args.keep, dirs_exist_ok=True)


if __name__ == "__main__":
    run_command(main)()
