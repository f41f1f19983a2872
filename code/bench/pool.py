"""What spreading a run over Ray workers costs and gains: python bench/pool.py [--questions 24] [--method vanilla]

The same mini run by one process without Ray, by one worker and by two, in turns, each a command of its own; then what the
pool adds to a question: the time between handing questions out and having their records written, less the time spent
answering.
"""

import argparse
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

CODE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CODE))


def flags(args: argparse.Namespace, file: Path, workers: int, tokens: int) -> list[str]:
    return ["--method", args.method, "--model-path", "mini", "--paradigm", "best_of_n", "--temperature", "0.6",
            "--question-end", str(args.questions), "--max-new-tokens", str(tokens), "--answer-file", str(file),
            *(["--workers", str(workers)] if workers else ["--threads", "1"])]


def seconds(args: argparse.Namespace, workers: int) -> float:
    """Of the whole command, loading and Ray's start included."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "evaluation.inference", *flags(args, Path(folder) / "r.jsonl", workers, args.tokens)]
        begun = perf_counter()
        subprocess.run(command, cwd=CODE, check=True, capture_output=True)
        return perf_counter() - begun


def overhead(args: argparse.Namespace) -> None:
    """Short questions to one worker: what is not answering is the pool's."""
    from evaluation import inference, pool

    spent: dict[str, float] = {}
    run, share = pool.Pool.run, pool.Pool.share_answering

    def timed_run(self: pool.Pool, todo: list, writer: object, progress: object) -> None:
        begun = perf_counter()
        run(self, todo, writer, progress)
        spent["run"], spent["questions"] = perf_counter() - begun, len(todo)

    def kept_share(self: pool.Pool, whole: float) -> float:
        spent["share"] = share(self, whole)
        return spent["share"]

    pool.Pool.run, pool.Pool.share_answering = timed_run, kept_share
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        inference.main_for(None, flags(args, Path(folder) / "r.jsonl", 1, args.tokens))
    lost = spent["run"] * (1 - spent["share"])
    print(f"pool: {1e3 * lost / spent['questions']:.1f} ms a question, {lost / spent['run']:.2%} of the time after loading")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", default="vanilla")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    found: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for _ in range(args.rounds):
        for workers, times in found.items():
            times.append(seconds(args, workers))
            print(f"{'one process' if not workers else f'{workers} worker(s)'}: {times[-1]:.1f} s", flush=True)
    plain, one, two = (median(times) for times in found.values())
    print(f"{args.questions} questions x 4 samples of {args.method}: two workers take {two / one:.2f} of one worker's time,"
          f" {two / plain:.2f} of the process without Ray")
    overhead(args)


if __name__ == "__main__":
    main()
