"""A benchmark over a server: questions side by side, each written as soon as it is answered."""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.paradigms import GenerationKey
from evaluation.records.manifest import SCHEMA, Manifest
from evaluation.records.schema import Record
from evaluation.records.writer import RecordWriter, write_atomically
from evaluation.running.manifest import git_state, versions
from evaluation.running.progress import bar
from evaluation.running.resuming import remaining, report_failures, resumable
from evaluation.running.runner import generation_keys
from evaluation.serving.asking import EngineRunner
from evaluation.serving.client import Reply
from evaluation.serving.engines import About
from evaluation.tasks import Question, questions_hash

WARMUP_TOKENS = 16
WARM_UP = GenerationKey()
WAIT = 0.2
"""Seconds between two looks at whether Ctrl-C was pressed."""


@dataclass(frozen=True)
class Done:
    """What a thread hands over: a question's records, or why the run must end."""

    records: list[Record]
    error: BaseException | None = None


def run(
    runner: EngineRunner, about: About, argv: list[str], questions: list[Question], warmup: int
) -> int:
    """The whole run. Returns the exit code: 3 where a generation has failed."""
    spec, serving = runner.spec, runner.serving
    generations = len(generation_keys(spec, runner.paradigm))
    with RecordWriter(spec.path, manifest(runner, about, argv, questions), generations) as writer:
        left = remaining(questions, writer)
        if left:
            for _ in range(warmup):
                body = runner.body(left[0], [{"role": "user", "content": left[0].text}], WARM_UP)
                serving.client.chat(body | {"max_tokens": WARMUP_TOKENS})
        before = serving.engine.counters(serving.client)
        with resumable():
            _answer_all(runner, left, writer, len(questions))
        if left:
            _tell_counters(runner, before)
    print(f"records: {spec.path}")
    print(f"acceptance by {serving.engine.name}: {serving.engine.conversion}")
    return report_failures([writer])


def _answer_all(
    runner: EngineRunner, left: list[Question], writer: RecordWriter, total: int
) -> None:
    """Every question in a thread of its own, as many at once as requests may be in flight."""
    progress = bar(runner.spec.label, total, total - len(left))
    speed = _Speed()
    runner.on_reply = speed.add
    waiting: queue.SimpleQueue[Question] = queue.SimpleQueue()
    for question in left:
        waiting.put(question)
    finished: queue.SimpleQueue[Done] = queue.SimpleQueue()
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            try:
                question = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                finished.put(Done(runner.answer(question)))
            except BaseException as error:
                finished.put(Done([], error))
                return

    for _ in range(min(runner.concurrency, len(left))):
        # a daemon: Ctrl-C does not wait for replies under way
        threading.Thread(target=work, daemon=True).start()
    try:
        for done in _as_they_come(finished, len(left)):
            if done.error:
                raise done.error
            writer.append(done.records)
            progress.set_postfix_str(speed.text(), refresh=False)
            progress.update(1)
    finally:
        is_over.set()
        progress.close()


def _as_they_come(finished: queue.SimpleQueue[Done], count: int) -> Iterator[Done]:
    """So many results; between them signals are heard."""
    for _ in range(count):
        while True:
            with contextlib.suppress(queue.Empty):
                yield finished.get(timeout=WAIT)
                break


class _Speed:
    """Tokens a second since the run began."""

    def __init__(self) -> None:
        self._begun, self._tokens = time.perf_counter(), 0

    def add(self, reply: Reply) -> None:
        self._tokens += reply.new_tokens or 0

    def text(self) -> str:
        return f"{self._tokens / (time.perf_counter() - self._begun):.0f} tok/s in all"


def _tell_counters(runner: EngineRunner, before: dict[str, float]) -> None:
    """What the server counted meanwhile, beside the records: right if nobody else asked it."""
    serving = runner.serving
    after = serving.engine.counters(serving.client)
    if not after:
        return
    difference = {name: count - before.get(name, 0.0) for name, count in after.items()}
    steps = serving.engine.counted(difference)
    told: dict[str, Any] = {"counters": difference}
    if steps.forwards:
        emitted = difference["tokens"] - difference["requests"]
        told["mat"] = emitted / steps.forwards
        print(
            f"the server's own counters: {emitted:.0f} tokens in {steps.forwards} forwards,"
            f" MAT {told['mat']:.2f} (if nobody else asked it)",
            file=sys.stderr,
        )
    file = runner.spec.path.with_suffix(".counters.json")
    write_atomically(file, json.dumps(told, indent=1) + "\n")


def manifest(
    runner: EngineRunner, about: About, argv: list[str], questions: list[Question]
) -> Manifest:
    """What decides the records, and where they came from. No key is in it."""
    serving = runner.serving
    model = f"{serving.engine.name} {serving.model}"
    data = {
        "schema": SCHEMA,
        "origin": "engine",
        "spec": runner.spec.as_json(),
        "family": "served",
        "fingerprints": {"questions": questions_hash(questions), "model": model},
        "questions": len(questions),
        "device": ", ".join(
            filter(None, (runner.device, f"{serving.engine.name} {about.version}"))
        ),
        "engine": {
            "name": serving.engine.name,
            "model": serving.model,
            "base_url": serving.client.base_url,
            "is_streaming": serving.is_streaming,
            "concurrency": runner.concurrency,
            "conversion": serving.engine.conversion,
            **asdict(about),
        },
        "end_think": serving.end_think or None,
        "arguments": argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_state(),
        "versions": versions(),
    }
    return Manifest(json.loads(json.dumps(data)))
