"""Is every bad input one clear line? Damaged flags and files, thrown at every command.

    python bench/bad_input.py [--cases 2000] [--seed 0] [--only WORDS]

A case is a command, one of its flags or input files, and a kind of damage. It passes where the
command ends with exit code 0 (the damage did not matter), or with one line on standard error and
exit code 2. A traceback, another exit code, or a command that hangs, is a failure and is printed.
Nothing is downloaded: the hub is switched off.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CODE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CODE))
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
from pebble import ProcessPool
from tqdm import tqdm

from evaluation import (
    calibrate,
    estimate,
    inference,
    leaderboard,
    matrix,
    redundancy,
    score,
    speed,
    verify,
)
from evaluation.command import run_command
from evaluation.records import __main__ as records
from evaluation.report import __main__ as report
from model.paths import MINI

SECONDS = 120
"""A case may take."""
CASES_A_WORKER = 150
TINY = ["--question-end", "1", "--max-new-tokens", "4", "--threads", "1", "--max-nodes", "4"]
BAD_WORDS = (
    "",
    "x",
    "nan",
    "inf",
    "-inf",
    "-1",
    "1e999",
    "1.5",
    "\x1b[2J",
    "0x10",
    "/proc/nowhere",
)
BAD_VALUES: tuple[Any, ...] = (
    None, "", "x", -1, 0, 0.5, 1 << 70, float("nan"), float("inf"), True, [], [1], {}, [[[]]],
)  # fmt: skip
"""For a field of a JSON file."""
BAD_BYTES = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"{",
    b"[]",
    b"null",
    b"NaN",
    b"1",
    b'"x"',
    b"\n\n",
    b"{}\n",
)
"""For a whole file."""


@dataclass(frozen=True)
class Case:
    """What is run, once `damage` has been done to a fresh copy of the inputs."""

    name: str
    main: Callable[[], int | None]
    argv: list[str]
    """Words in which {} is the folder of the inputs."""
    damage: Callable[[Path], None] = lambda folder: None


# --- inputs that are whole ------------------------------------------------------------------------
def make_inputs(folder: Path) -> None:
    """Everything the commands read, made by running the mini family once."""
    (folder / "runs").mkdir(parents=True)
    run = ["--model-path", "mini", "--model-id", "{method}", *TINY, "--question-end", "2"]
    answers = ["--answer-file", str(folder / "runs" / "{method}.jsonl")]
    outcome = run_case(
        inference.main, ["--methods", "vanilla", "pld", *run, *answers], time_limit=10 * SECONDS
    )
    assert outcome.code == 0, outcome
    curve = ["--model-path", "mini", "--out", str(folder / "runs" / "calibration.json")]
    assert run_case(calibrate.main, [*curve, "--repeats", "1"]).code == 0
    assert run_case(score.main, [str(folder / "runs")]).code == 0
    for part in ("target", "draft", "eagle3"):
        shutil.copytree(MINI / part, folder / part)
    shutil.copy(MINI / "rest.datastore", folder / "store")
    (folder / "questions.jsonl").write_text(
        '{"question_id": 1, "turns": ["What is 2 + 3?"], "answer": "5"}\n'
        '{"question_id": 2, "category": "c", "turns": ["What is 4 + 3?"], "answer": "7"}\n'
    )
    (folder / "template.jinja").write_text("{{ messages[0].content }}\n")


# --- kinds of damage ------------------------------------------------------------------------------
def with_bytes(file: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: replace_file(folder / file, data)


def replace_file(file: Path, data: bytes) -> None:
    """Anew: the copy of the inputs may share its bytes with them."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def cut(file: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / file).read_bytes()
        replace_file(folder / file, data[: int(share * len(data))])

    return damage


def flipped(file: str, seed: int) -> Callable[[Path], None]:
    """A few bytes changed, most of them near the beginning, where headers are."""

    def damage(folder: Path) -> None:
        data, rng = bytearray((folder / file).read_bytes()), random.Random(seed)
        for _ in range(3):
            at = rng.randrange(min(len(data), rng.choice((64, 2048, len(data)))))
            data[at] = rng.randrange(256)
        replace_file(folder / file, bytes(data))

    return damage


def missing(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def as_folder(file: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return damage


def with_field(file: str, line: int, path: tuple[Any, ...], value: Any) -> Callable[[Path], None]:
    """One field of a JSON file, or of a line of JSON lines, set or (`...`) taken out."""

    def damage(folder: Path) -> None:
        text = (folder / file).read_text(encoding="utf-8")
        lines = text.splitlines() if file.endswith(".jsonl") else [text]
        data = json.loads(lines[line])
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        if value is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        lines[line] = json.dumps(data)
        replace_file(folder / file, ("\n".join(lines) + "\n").encode())

    return damage


def fields_of(data: Any, most_depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """Paths of all fields of nested dictionaries."""
    if not isinstance(data, dict) or most_depth == 0:
        return
    for key, value in data.items():
        yield (key,)
        for rest in fields_of(value, most_depth - 1):
            yield (key, *rest)


# --- cases ----------------------------------------------------------------------------------------
RUN = ["--method", "vanilla", "--model-path", "mini", *TINY, "--answer-file", "{}/out/r.jsonl"]
COMMANDS: dict[str, tuple[Callable[[], int | None], list[str]]] = {
    "run": (inference.main, RUN),
    "in turn": (inference.main, ["--methods", "vanilla", "pld", "--model-path", "mini", *TINY,
                                 "--answer-file", "{}/out/{method}.jsonl"]),
    "matrix": (matrix.main, ["--model-path", "mini", "--model-name", "m", "--methods", "vanilla",
                             "--out", "{}/out", "--dry-run"]),
    "speed": (speed.main, ["{}/runs"]),
    "score": (score.main, ["{}/runs"]),
    "report": (report.main, ["{}/runs", "--out", "{}/out"]),
    "redundancy": (redundancy.main, ["{}/runs"]),
    "leaderboard": (leaderboard.main, ["{}/runs"]),
    "records": (records.main, ["export", "{}/runs/pld.jsonl", "--out", "{}/out.jsonl"]),
    "verify": (verify.main, ["--model-path", "mini", "--method", "pld", "--questions", "1",
                             "--max-new-tokens", "4", "--temperature", "0"]),
    "calibrate": (calibrate.main, ["--model-path", "mini", "--out", "{}/c.json", "--repeats", "1",
                                   "--contexts", "8"]),
    "estimate": (estimate.main, ["--model-path", "{}/target"]),
}  # fmt: skip
READERS = ("speed", "score", "report", "redundancy", "leaderboard", "records")


def flag_cases() -> Iterator[Case]:
    """Every flag of every command, with every bad word for a value."""
    for command, (main, argv) in COMMANDS.items():
        for flag, word in itertools.product(flags_of(main), BAD_WORDS):
            yield Case(f"{command} {flag} {word!r}", main, [*argv, flag, word])
        yield Case(f"{command} alone", main, [])
        yield Case(f"{command} unknown flag", main, [*argv, "--colour", "red"])
    methods = ("pld", "sam", "pia", "lookahead", "recycling", "rest", "sps", "eagle3", "sam_eagle3")
    for method in methods:
        run = ["--method", method, *RUN[2:]]
        for flag, word in itertools.product(flags_of(inference.main, method), BAD_WORDS):
            yield Case(f"{method} {flag} {word!r}", inference.main, [*run, flag, word])


def flags_of(main: Callable[[], int | None], method: str | None = None) -> list[str]:
    """The flags that `--help` lists and that take a value; of a method, its own."""
    argv = ["--method", method, "--help"] if method else ["--help"]
    text = run_case(main, argv).said
    if method:
        text = text.partition(f"options of {method}")[2].partition("\n\n")[0]
    flags = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0].startswith("--") and words[0] not in ("--help", "--version"):
            flags.append(words[0].rstrip(","))
    return list(dict.fromkeys(flags))


def file_cases(folder: Path, rng: random.Random) -> Iterator[Case]:
    """Every input file, whole and field by field."""
    readers = [(name, *COMMANDS[name]) for name in READERS]
    for file in ("runs/pld.jsonl", "runs/vanilla.jsonl"):
        for path, value in itertools.product(_fields(folder, file), (*BAD_VALUES, ...)):
            name, main, argv = rng.choice(readers)
            damage = with_field(file, 0, path, value)
            yield Case(f"{name} {file} {path} {value!r}", main, argv, damage)
    for file in ("runs/pld.manifest.json", "runs/calibration.json", "runs/pld.scores.json"):
        for path, value in itertools.product(_fields(folder, file), (None, "x", -1, [], {}, ...)):
            name, main, argv = rng.choice(readers)
            damage = with_field(file, 0, path, value)
            yield Case(f"{name} {file} {path} {value!r}", main, argv, damage)
    for file in ("runs/pld.jsonl", "runs/pld.manifest.json", "runs/calibration.json"):
        for what, damage in whole_file_damages(file, rng):
            for name, main, argv in readers:
                yield Case(f"{name} {file} {what}", main, argv, damage)
    yield from resume_cases(folder, rng)
    yield from model_cases(folder, rng)


def resume_cases(folder: Path, rng: random.Random) -> Iterator[Case]:
    """A run that finds what is in its place."""
    argv = [*RUN[:-1], "{}/runs/vanilla.jsonl", "--model-id", "vanilla"]
    for file in ("runs/vanilla.jsonl", "runs/vanilla.manifest.json"):
        for what, damage in whole_file_damages(file, rng):
            yield Case(f"resume {file} {what}", inference.main, argv, damage)
        for path, value in itertools.product(_fields(folder, file), (None, "x", -1, ...)):
            damage = with_field(file, 0, path, value)
            yield Case(f"resume {file} {path} {value!r}", inference.main, argv, damage)


def model_cases(folder: Path, rng: random.Random) -> Iterator[Case]:
    """Checkpoints, heads, draft models, datastores, question files, templates."""
    target = [word if word != "mini" else "{}/target" for word in RUN]
    uses = {
        "target/config.json": target,
        "target/generation_config.json": target,
        "target/tokenizer_config.json": target,
        "target/tokenizer.json": target,
        "target/model.safetensors": target,
        "draft/config.json": ["--method", "sps", *RUN[2:], "--sps-model", "{}/draft"],
        "draft/model.safetensors": ["--method", "sps", *RUN[2:], "--sps-model", "{}/draft"],
        "eagle3/config.json": ["--method", "eagle3", *RUN[2:], "--eagle-head", "{}/eagle3"],
        "eagle3/model.safetensors": ["--method", "eagle3", *RUN[2:], "--eagle-head", "{}/eagle3"],
        "store": ["--method", "rest", *RUN[2:], "--rest-datastore", "{}/store"],
        "questions.jsonl": [*RUN, "--question-file", "{}/questions.jsonl"],
        "template.jinja": [*target, "--chat-template", "{}/template.jinja"],
    }
    for file, argv in uses.items():
        if not (folder / file).exists():
            continue
        for what, damage in whole_file_damages(file, rng):
            yield Case(f"run {file} {what}", inference.main, argv, damage)
        if file.endswith("json") or file.endswith("jsonl"):
            paths = [path for path in _fields(folder, file) if len(path) < 3]
            for path, value in itertools.product(paths, (None, "x", -1, 0, 1 << 40, [], {}, ...)):
                damage = with_field(file, 0, path, value)
                yield Case(f"run {file} {path} {value!r}", inference.main, argv, damage)
    for family in ("mamba", "gpt2", "bloom", "bert", "t5", "rwkv", "llava", "nothing"):
        config = json.dumps({"model_type": family}).encode()
        damage = with_bytes("target/config.json", config)
        yield Case(f"run a {family}", inference.main, target, damage)
        argv = COMMANDS["estimate"][1]
        yield Case(f"estimate a {family}", estimate.main, argv, damage)
    templates = (b"{{", b"{% for %}", b"{{ 1 / 0 }}", b"{{ raise_exception('no') }}", b"\xff", b"")
    for template in templates:
        damage = with_bytes("template.jinja", template)
        argv = uses["template.jinja"]
        yield Case(f"run template {template!r}", inference.main, argv, damage)


def whole_file_damages(
    file: str, rng: random.Random
) -> Iterator[tuple[str, Callable[[Path], None]]]:
    for data in BAD_BYTES:
        yield f"is {data!r}", with_bytes(file, data)
    for share in (0.1, 0.5, 0.99):
        yield f"cut at {share}", cut(file, share)
    for _ in range(6):
        seed = rng.randrange(1 << 30)
        yield f"flipped {seed}", flipped(file, seed)
    yield "missing", missing(file)
    yield "a folder", as_folder(file)


def _fields(folder: Path, file: str) -> list[tuple[Any, ...]]:
    text = (folder / file).read_text(encoding="utf-8")
    data = json.loads(text.splitlines()[0] if file.endswith(".jsonl") else text)
    return list(fields_of(data))


def all_cases(folder: Path, seed: int) -> list[Case]:
    """In a random order; `folder` holds whole inputs."""
    rng = random.Random(seed)
    cases = [*flag_cases(), *file_cases(folder, rng)]
    rng.shuffle(cases)
    return cases


# --- running --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int | None
    """None: by an exception of its own."""
    said: str
    """Standard output and error."""

    @property
    def is_good(self) -> bool:
        last = self.said.strip().splitlines()[-1:] or [""]
        is_one_line = self.code == 2 and last[0].startswith("error: ")
        return "Traceback" not in self.said and (self.code == 0 or is_one_line)


class TooLong(BaseException):
    """A case took more than its time."""


def _too_long(*_: object) -> None:
    raise TooLong


def run_case(
    main: Callable[[], int | None], argv: list[str], time_limit: float = SECONDS
) -> Outcome:
    """Run a command in this process, as `python -m` would."""
    said, code = io.StringIO(), None
    threads = torch.get_num_threads()
    before = sys.argv
    sys.argv = ["command", *argv]
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, time_limit)
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            run_command(main)()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except TooLong:
        said.write(f"\nTraceback: still running after {time_limit:.0f} s")
    except Exception:
        said.write(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.argv = before
        torch.set_num_threads(threads)
    return Outcome(code, said.getvalue())


def attempt(case: Case, whole: Path) -> Outcome:
    """A case on a fresh copy of the whole inputs (hard links: weights are not copied)."""
    with tempfile.TemporaryDirectory(dir=whole.parent) as place:
        folder = Path(place) / "inputs"
        shutil.copytree(whole, folder, copy_function=os.link)
        case.damage(folder)
        os.chdir(place)  # what a bad word makes a command write is written there
        argv = [word.replace("{}", str(folder)) for word in case.argv]
        try:
            return run_case(case.main, argv)
        finally:
            os.chdir(CODE)


@dataclass(frozen=True)
class Failure:
    """A case that did not end as it must."""

    name: str
    code: int | None
    last_lines: list[str]


@dataclass(frozen=True)
class Result:
    """Of one case."""

    is_refused: bool
    failure: Failure | None


def attempt_number(number: int, whole: Path, seed: int, only: str) -> Result:
    """Case `number` of those chosen, in a worker: cases hold functions, which do not travel."""
    torch.set_num_threads(1)
    case = chosen_cases(whole, seed, only)[number]
    outcome = attempt(case, whole)
    failure = None
    if not outcome.is_good:
        lines = outcome.said.strip().splitlines()[-6:]
        failure = Failure(case.name, outcome.code, lines)
    return Result(outcome.code == 2, failure)


@functools.cache
def chosen_cases(whole: Path, seed: int, only: str) -> list[Case]:
    """Once a worker."""
    return [case for case in all_cases(whole, seed) if only in case.name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=2000, help="of all there are, at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name holds these words")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        make_inputs(whole)
        every = chosen_cases(whole, args.seed, args.only)
        count = min(args.cases, len(every))
        results = list(run_all(count, whole, args))
    failed = sum(result.failure is not None for result in results)
    refused = sum(result.is_refused for result in results)
    print(
        f"{count} cases of {len(every)}: {refused} refused in one line, {failed} failed,"
        f" {time.monotonic() - begun:.0f} s"
    )
    return int(bool(failed))


def run_all(count: int, whole: Path, args: argparse.Namespace) -> Iterator[Result]:
    """In workers, which are replaced now and then: PyTorch never frees a recorded graph."""
    context = multiprocessing.get_context("spawn")
    workers = ProcessPool(args.jobs, max_tasks=CASES_A_WORKER, context=context)
    with workers, tqdm(total=count, unit="case", mininterval=5) as bar:
        numbers = [
            workers.schedule(attempt_number, args=[number, whole, args.seed, args.only])
            for number in range(count)
        ]
        for future in as_completed(numbers):
            result = future.result()
            bar.update(1)
            if result.failure:
                bar.write(f"\nFAILED (exit code {result.failure.code}): {result.failure.name}")
                bar.write("\n".join("    " + line[:200] for line in result.failure.last_lines))
            yield result


if __name__ == "__main__":
    raise SystemExit(main())
