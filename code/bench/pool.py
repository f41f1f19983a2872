"""What spreading a run over Ray workers costs and gains.

    python bench/pool.py [--questions 24] [--method vanilla]

The same mini run by one process without Ray, by one worker and by two, in turns, each a command of
its own. Then what the pool adds to a question: the time between handing questions out and having
their records written, less the time spent answering.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

CODE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CODE))

from evaluation import inference
from evaluation.command import Parser, run_command, summary
from evaluation.records.writer import RecordWriter
from evaluation.running.progress import PoolProgress

NO_POOL = 0
"""Workers of a run by one process without Ray."""


@dataclass(frozen=True)
class Settings:
    """The command line."""

    method: str
    questions: int
    tokens: int
    rounds: int

    def flags(self, records: Path, workers: int) -> list[str]:
        """Of the launcher."""
        flags = {
            "--method": self.method,
            "--model-path": "mini",
            "--paradigm": "best_of_n",
            "--temperature": "0.6",
            "--question-end": self.questions,
            "--max-new-tokens": self.tokens,
            "--answer-file": records,
        }
        if workers == NO_POOL:
            flags["--threads"] = 1
        else:
            flags["--workers"] = workers
        words = []
        for flag, value in flags.items():
            words += [flag, str(value)]
        return words


def command_seconds(settings: Settings, workers: int) -> float:
    """Of the whole command, loading and Ray's start included."""
    with TemporaryDirectory() as folder:
        flags = settings.flags(Path(folder) / "r.jsonl", workers)
        command = [sys.executable, "-m", "evaluation.inference", *flags]
        begun = perf_counter()
        subprocess.run(command, cwd=CODE, check=True, capture_output=True)
        return perf_counter() - begun


@dataclass
class PoolTimes:
    """What a pool's run took."""

    seconds: float = 0.0
    questions: int = 0
    answering: float = 0.0
    """Share of the seconds that workers spent answering."""

    @property
    def overhead(self) -> float:
        """Seconds that were not spent answering."""
        return self.seconds * (1 - self.answering)


def pool_times(settings: Settings) -> PoolTimes:
    """A run by one worker, started from this process to see into it."""
    from evaluation.running import pool  # needs Ray

    times = PoolTimes()

    class TimedPool(pool.Pool):
        def run(
            self, todo: list[pool.Job], writers: dict[str, RecordWriter], progress: PoolProgress
        ) -> None:
            begun = perf_counter()
            super().run(todo, writers, progress)
            times.seconds, times.questions = perf_counter() - begun, len(todo)

        def share_answering(self, seconds: float) -> float:
            times.answering = super().share_answering(seconds)
            return times.answering

    pool.Pool = TimedPool
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        inference.main_for(argv=settings.flags(Path(folder) / "r.jsonl", workers=1))
    return times


def main() -> None:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("--method", default="vanilla")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    settings = Settings(**vars(parser.parse_args()))
    seconds: dict[int, list[float]] = {NO_POOL: [], 1: [], 2: []}
    for _ in range(settings.rounds):
        for workers, measured in seconds.items():
            measured.append(command_seconds(settings, workers))
            name = "one process" if workers == NO_POOL else f"{workers} worker(s)"
            print(f"{name}: {measured[-1]:.1f} s", flush=True)
    plain, one, two = (median(measured) for measured in seconds.values())
    print(
        f"{settings.questions} questions x 4 samples of {settings.method}: two workers take"
        f" {two / one:.2f} of one worker's time,"
        f" {two / plain:.2f} of the process without Ray"
    )
    times = pool_times(settings)
    print(
        f"pool: {1e3 * times.overhead / times.questions:.1f} ms a question,"
        f" {times.overhead / times.seconds:.2%} of the time after loading"
    )


if __name__ == "__main__":
    run_command(main)()
