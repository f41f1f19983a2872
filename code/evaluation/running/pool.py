"""The loop spread over workers by Ray: GPUs of a machine, CPU processes, or a whole cluster.

Every worker loads the model once and takes questions from the queue as it becomes free. All
generations of a question stay on one worker, because drafters remember within a question; the
driver is the single writer. A question whose worker dies goes to another, at most twice, and is
then recorded as failed.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluation import paradigms
from evaluation.records.manifest import Manifest
from evaluation.records.schema import Record
from evaluation.records.writer import RecordWriter
from evaluation.running import manifest
from evaluation.running.build import build_run
from evaluation.running.progress import PoolProgress, Status
from evaluation.running.resuming import remaining, resumable
from evaluation.running.runner import Runner, failed_records
from evaluation.running.sharing import Sharing
from evaluation.running.spec import RunSpec, WorkersSpec
from evaluation.tasks import Question
from model.engine.sequence import Sequence
from model.errors import UserError, first_line
from model.paths import DATA

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError:
    raise UserError("several workers need Ray: pip install -e 'code[ray]'") from None

TRIES = 3
"""A question is given to a worker, and then at most twice to another."""
START_SECONDS = 600
"""Loading a large model from a slow disk."""
STATUS_SECONDS = 0.2
"""How long workers have to say what they are at."""
NO_MEMORY = ("OutOfMemoryError", "MemoryError", "can't allocate memory")


@dataclass(frozen=True)
class Placement:
    """How many workers, and what each holds; 0 workers: as many as the cluster takes."""

    workers: int
    gpus: float
    address: str | None

    @classmethod
    def of(cls, spec: WorkersSpec) -> Placement:
        if spec.workers:
            return cls(spec.workers, 0, spec.ray_address)
        if spec.gpus_total is not None:
            workers = max(1, int(spec.gpus_total / spec.gpus_per_model))
            return cls(workers, spec.gpus_per_model, spec.ray_address)
        return cls(0, spec.gpus_per_model, spec.ray_address)


@dataclass(frozen=True)
class RunDescription:
    """What the first worker that is ready says of the run."""

    spec: RunSpec
    """Resolved."""
    manifest: Manifest
    generations: int
    """Records a question yields."""


class Worker:
    """One copy of the model in a process of its own. Runs as a Ray actor."""

    def __init__(self, spec: RunSpec, is_oversubscribed: bool, group: int) -> None:
        self._spec = spec
        self._is_oversubscribed, self._group = is_oversubscribed, group
        self._status = Status()
        self._status_text = ""
        self._seconds = 0.0
        self._runner: Runner
        self._sharing: Sharing

    def describe(self, argv: list[str], questions: list[Question]) -> RunDescription | UserError:
        """Load, check the questions, warm up."""
        try:
            self._runner = build_run(self._spec, questions)
        except UserError as error:
            return error
        device = self._runner.loaded.model.device
        self._sharing = Sharing(device, self._is_oversubscribed, self._group)
        self._runner.warm_up(questions[0], self)
        written = manifest.build(self._runner, argv, questions)
        return RunDescription(self._runner.spec, written, self._runner.generations)

    def answer(self, question: Question) -> list[Record]:
        """All records of a question."""
        begun = time.perf_counter()
        records = self._sharing.mark(self._runner.answer(question, self))
        self._seconds += time.perf_counter() - begun
        return records

    def seconds(self) -> float:
        """Spent answering so far."""
        return self._seconds

    def status(self) -> str:
        """What it is at."""
        return self._status_text

    def generation(self, name: str) -> None:
        self._status.generation(name)

    def step(self, sequence: Sequence) -> None:
        self._status_text = self._status.text(sequence)


@dataclass(frozen=True)
class Busy:
    """A worker and the question it answers."""

    worker: Any
    question: Question


@dataclass
class Pool:
    """The driver's side: starting, idle and busy workers, and the questions still to answer."""

    spec: RunSpec
    argv: list[str]
    questions: list[Question]
    placement: Placement
    worker: type = Worker
    starting: dict[Any, Any] = field(default_factory=dict)
    """Workers by the future of their `describe`."""
    idle: list[Any] = field(default_factory=list)
    busy: dict[Any, Busy] = field(default_factory=dict)
    """By the future of `answer`."""
    tries: dict[str, int] = field(default_factory=dict)
    """How often a question was given to a worker."""
    described: RunDescription | None = None

    def start_worker(self) -> None:
        plan, cores = self.placement, os.cpu_count() or 1
        threads = self.spec.model.threads or 1
        share_cores = not plan.gpus and plan.workers * threads > cores
        share_gpu = 0 < plan.gpus < 1
        actor: Any = ray.remote(self.worker)
        # of two calls at a time one may ask for the status while the other answers
        placed = actor.options(max_concurrency=2, num_cpus=1, num_gpus=plan.gpus)
        worker = placed.remote(self.spec, share_cores or share_gpu, os.getpid())
        self.starting[worker.describe.remote(self.argv, self.questions)] = worker

    def collect_started(self, seconds: float) -> str:
        """Collect workers that are ready; returns why one failed to start, or nothing.

        Raises the UserError of a worker that met one.
        """
        if not self.starting:
            return ""
        ready, _ = ray.wait(list(self.starting), timeout=seconds)
        reason = ""
        for future in ready:
            worker = self.starting.pop(future)
            try:
                described = ray.get(future)
            except RayError as error:
                reason = str(error).strip().split("\n")[-1]
                continue
            if isinstance(described, UserError):
                raise described
            self.described = self.described or described
            self.idle.append(worker)
        return reason

    def first_ready(self) -> RunDescription:
        """Wait for one worker."""
        deadline, reason = time.time() + START_SECONDS, ""
        while self.described is None:
            reason = self.collect_started(1.0) or reason
            if not self.starting and self.described is None:
                raise UserError(f"no worker could start: {reason}")
            if time.time() > deadline:
                raise UserError(
                    f"no worker started within {START_SECONDS} s; does the cluster have"
                    f" {self.placement.gpus:g} GPU(s) and a CPU for each? (`ray status`)"
                )
        return self.described

    def run(self, todo: list[Question], writer: RecordWriter, progress: PoolProgress) -> None:
        """Hand out questions until all are answered or given up."""
        pending = deque(todo)
        while pending or self.busy:
            self.collect_started(0)
            self._hand_out(pending)
            done: list[Any] = []
            if self.busy:
                done, _ = ray.wait(list(self.busy), timeout=0.5)
            for future in done:
                self._finish_question(future, pending, writer, progress)
                self._hand_out(pending)
            if not self.busy and not self.idle:
                if not self.starting:
                    raise UserError(
                        "no worker is left and none can start; finished questions are saved,"
                        " the same command goes on"
                    )
                self.collect_started(1.0)
            if progress.is_due():
                progress.show(self._statuses())

    def share_answering(self, seconds: float) -> float:
        """Share of `seconds` that the workers still there spent answering; NaN without any."""
        spent = []
        for worker in self.idle:
            with contextlib.suppress(RayError):  # lost since its last question, which is written
                spent.append(ray.get(worker.seconds.remote()))
        return sum(spent) / (len(spent) * seconds) if spent else float("nan")

    def _statuses(self) -> list[str]:
        """What busy workers are at; one that does not answer at once is left out."""
        futures = [busy.worker.status.remote() for busy in self.busy.values()]
        if not futures:
            return []
        ready, _ = ray.wait(futures, num_returns=len(futures), timeout=STATUS_SECONDS)
        statuses = []
        for future in ready:
            # a worker may have died meanwhile: its question's future says so
            with contextlib.suppress(RayError):
                statuses.append(ray.get(future))
        return statuses

    def _hand_out(self, pending: deque[Question]) -> None:
        """A question for every idle worker."""
        while pending and self.idle:
            worker, question = self.idle.pop(), pending.popleft()
            self.tries[question.id] = self.tries.get(question.id, 0) + 1
            self.busy[worker.answer.remote(question)] = Busy(worker, question)

    def _finish_question(
        self,
        future: Any,
        pending: deque[Question],
        writer: RecordWriter,
        progress: PoolProgress,
    ) -> None:
        """Write a question's records, or see to a worker that died on it."""
        busy = self.busy.pop(future)
        try:
            records = ray.get(future)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            raise
        except RayError as error:  # the worker, its memory or its node is gone, or the answer
            reason = " ".join(str(error).split())[:300]
            self._replace_worker(busy.question, f"worker died: {reason}", pending, writer, progress)
            return
        if reason := _out_of_memory(records):
            ray.kill(busy.worker)  # what fragmented its memory goes with it
            self._replace_worker(busy.question, f"worker died: {reason}", pending, writer, progress)
            return
        self.idle.append(busy.worker)
        writer.append(records)
        progress.question_done(records)

    def _replace_worker(
        self,
        question: Question,
        reason: str,
        pending: deque[Question],
        writer: RecordWriter,
        progress: PoolProgress,
    ) -> None:
        """A worker is gone: start another, and try its question again or record it as failed."""
        self.start_worker()
        if self.tries[question.id] < TRIES:
            progress.say(f"question {question.id}: {reason[:100]}; it goes to another")
            pending.append(question)
            return
        progress.say(f"question {question.id}: {TRIES} workers died on it; recorded as failed")
        assert self.described is not None
        spec = self.described.spec
        paradigm = paradigms.load(spec.paradigm.name)
        writer.append(failed_records(spec, paradigm, question, reason))
        progress.question_done([])


def _out_of_memory(records: list[Record]) -> str:
    """Why a generation failed for want of memory, or nothing. Another worker may have more."""
    for record in records:
        if record.failed and any(words in record.error for words in NO_MEMORY):
            return record.error
    return ""


def connect(plan: Placement) -> Placement:
    """Join or start Ray, which copies the packages to the workers, but no weights and no data.

    Returns how many workers there will be. Raises UserError where Ray cannot be reached or has too
    few GPUs.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if plan.address:
        code = Path(__file__).resolve().parents[2]
        packages = [str(code / "model"), str(code / "evaluation")]
        environment = {"py_modules": packages, "env_vars": {"SPECTTS_DATA": str(DATA)}}
        options |= {"address": plan.address, "runtime_env": environment}
    else:
        options["include_dashboard"] = False
        if not plan.gpus:
            options["num_cpus"] = max(plan.workers, os.cpu_count() or 1)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        if not plan.address:
            raise UserError(f"cannot start Ray on this machine: {reason}") from None
        raise UserError(
            f"cannot reach Ray at {plan.address}: {reason}; start it with: ray start --head"
        ) from None
    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0)
    takes_what_is_there = plan.address and not plan.workers
    if plan.gpus * max(1, plan.workers) > gpus and not takes_what_is_there:
        raise UserError(
            f"{plan.workers} workers of {plan.gpus:g} GPU(s) are asked for; Ray sees {gpus:g}"
        )
    if plan.workers:
        return plan
    if gpus and plan.gpus:
        return replace(plan, workers=max(1, int(gpus / plan.gpus)))
    return replace(plan, workers=max(1, int(resources.get("CPU", 1))), gpus=0)


def run_pool(spec: RunSpec, argv: list[str], questions: list[Question]) -> int:
    """The whole run over workers; returns the exit code."""
    plan = Placement.of(spec.workers)
    if not plan.gpus and not spec.model.threads:
        spec = replace(spec, model=replace(spec.model, threads=1))
    plan = connect(plan)
    spec = replace(spec, workers=replace(spec.workers, workers=plan.workers))
    pool = Pool(spec, argv, questions, plan)
    try:
        for _ in range(min(plan.workers, len(questions))):
            pool.start_worker()
        described = pool.first_ready()
        driver = {
            "git": manifest.git_state(),
            "workers": plan.workers,
            "gpus_per_worker": plan.gpus,
        }
        written = Manifest({**described.manifest.data, **driver})
        with RecordWriter(spec.path, written, described.generations) as writer:
            _run(pool, writer)
    finally:
        ray.shutdown()
    print(f"records: {spec.path}")
    return 0


def _run(pool: Pool, writer: RecordWriter) -> None:
    """Answer what is not done, with progress, and say how busy the workers were."""
    questions = pool.questions
    left = remaining(questions, writer)
    label = f"{pool.spec.method.name} x {pool.placement.workers} workers"
    progress = PoolProgress(label, len(questions), len(questions) - len(left))
    begun = time.perf_counter()
    try:
        with resumable():
            pool.run(left, writer, progress)
    finally:
        progress.close()
    share = pool.share_answering(time.perf_counter() - begun)
    if left and not math.isnan(share):
        print(f"workers spent {share:.0%} of the run answering")
