"""The loop spread over workers by Ray: GPUs of a machine, CPU processes, or a whole cluster.

Every worker loads the model once and takes questions from the queue as it becomes free. All
generations of a question stay on one worker, because drafters remember within a question, and so do
all methods that take turns, because their times are compared; the driver is the single writer. A
question whose worker dies goes to another, at most twice and each method by itself, and is then
recorded as failed.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluation import paradigms
from evaluation.records.manifest import Manifest
from evaluation.records.schema import Record
from evaluation.records.writer import RecordWriter
from evaluation.running import interrupts, manifest
from evaluation.running.build import build_runs
from evaluation.running.progress import PoolProgress, Status
from evaluation.running.resuming import remaining, report_failures, resumable
from evaluation.running.runner import Runner, failed_records
from evaluation.running.sharing import Sharing
from evaluation.running.spec import RunSpec, WorkersSpec
from evaluation.running.turns import answer, collect_garbage, listener, rotated, with_cap
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
REACH_SECONDS = 5
HEALTH_SECONDS = 12
"""For a cluster's address to answer, and for the cluster to say that it is well."""
STATUS_SECONDS = 0.2
"""How long workers have to say what they are at."""
Writers = dict[str, RecordWriter]
"""By method."""
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
    """What the first worker that is ready says of one method's run."""

    spec: RunSpec
    """Resolved."""
    manifest: Manifest
    generations: int
    """Records a question yields."""


class Worker:
    """One copy of the model in a process of its own. Runs as a Ray actor."""

    def __init__(self, specs: list[RunSpec], is_oversubscribed: bool, group: int) -> None:
        self._specs = specs
        self._is_oversubscribed, self._group = is_oversubscribed, group
        self._status = Status()
        self._status_text = ""
        self._seconds = 0.0
        self._runners: dict[str, Runner]
        self._sharing: Sharing

    def describe(
        self, argv: list[str], questions: list[Question]
    ) -> list[RunDescription] | UserError:
        """Load, check the questions, warm up."""
        try:
            runners = build_runs(self._specs, questions)
        except UserError as error:
            return error
        self._runners = {runner.spec.method.name: runner for runner in runners}
        device = runners[0].loaded.model.device
        self._sharing = Sharing(device, self._is_oversubscribed, self._group)
        described = []
        for runner in runners:
            runner.warm_up(questions[0], listener(runner, self))
            written = manifest.build(runner, argv, questions)
            described.append(RunDescription(runner.spec, written, runner.generations))
        return described

    def answer(self, question: Question, caps: dict[str, int]) -> list[list[Record]]:
        """All records of a question, for each of the methods in turn.

        `caps` are the methods, and the most nodes of their drafts: what the first worker that was
        ready found to pay, so that all workers draft alike.
        """
        methods = tuple(caps)
        begun = time.perf_counter()
        collect_garbage()
        answers = []
        for method in methods:
            runner = with_cap(self._runners[method], caps[method])
            records = answer(runner, question, methods, self)
            answers.append(self._sharing.mark(records))
        self._seconds += time.perf_counter() - begun
        return answers

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
class Job:
    """A question, and the methods it is put to in turn."""

    question: Question
    methods: tuple[str, ...]

    def split(self) -> list[Job]:
        """Each method by itself: one that kills its worker does not take the others along."""
        return [Job(self.question, (method,)) for method in self.methods]


@dataclass(frozen=True)
class Busy:
    """A worker and what it answers."""

    worker: Any
    job: Job


@dataclass
class Pool:
    """The driver's side: starting, idle and busy workers, and the questions still to answer."""

    specs: list[RunSpec]
    argv: list[str]
    questions: list[Question]
    placement: Placement
    worker: type = Worker
    starting: dict[Any, Any] = field(default_factory=dict)
    """Workers by the future of their `describe`."""
    idle: list[Any] = field(default_factory=list)
    busy: dict[Any, Busy] = field(default_factory=dict)
    """By the future of `answer`."""
    tries: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a worker was given a question, by question and method."""
    described: list[RunDescription] = field(default_factory=list)
    """One a method, once a worker is ready."""

    def start_worker(self) -> None:
        plan, cores = self.placement, os.cpu_count() or 1
        threads = self.specs[0].model.threads or 1
        share_cores = not plan.gpus and plan.workers * threads > cores
        share_gpu = 0 < plan.gpus < 1
        actor: Any = ray.remote(self.worker)
        # of two calls at a time one may ask for the status while the other answers
        placed = actor.options(max_concurrency=2, num_cpus=1, num_gpus=plan.gpus)
        worker = placed.remote(self.specs, share_cores or share_gpu, os.getpid())
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

    def first_ready(self) -> list[RunDescription]:
        """Wait for one worker."""
        deadline, reason = time.time() + START_SECONDS, ""
        while not self.described:
            reason = self.collect_started(1.0) or reason
            if not self.starting and not self.described:
                raise UserError(f"no worker could start: {reason}")
            if time.time() > deadline:
                raise UserError(
                    f"no worker started within {START_SECONDS} s; does the cluster have"
                    f" {self.placement.gpus:g} GPU(s) and a CPU for each? (`ray status`)"
                )
        return self.described

    def run(self, todo: list[Job], writers: Writers, progress: PoolProgress) -> None:
        """Hand out questions until all are answered or given up."""
        pending = deque(todo)
        while pending or self.busy:
            self.collect_started(0)
            self._hand_out(pending)
            done: list[Any] = []
            if self.busy:
                done, _ = ray.wait(list(self.busy), timeout=0.5)
            for future in done:
                self._finish_question(future, pending, writers, progress)
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

    def _hand_out(self, pending: deque[Job]) -> None:
        """A question for every idle worker."""
        while pending and self.idle:
            worker, job = self.idle.pop(), pending.popleft()
            self.tries.update((job.question.id, method) for method in job.methods)
            caps = {method: self._spec(method).method.max_nodes for method in job.methods}
            self.busy[worker.answer.remote(job.question, caps)] = Busy(worker, job)

    def _spec(self, method: str) -> RunSpec:
        """A method's specification, resolved by the first worker that was ready."""
        return next(d.spec for d in self.described if d.spec.method.name == method)

    def _finish_question(
        self,
        future: Any,
        pending: deque[Job],
        writers: Writers,
        progress: PoolProgress,
    ) -> None:
        """Write a question's records, or see to a worker that died on it."""
        busy = self.busy.pop(future)
        try:
            answers = ray.get(future)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            raise
        except RayError as error:  # the worker, its memory or its node is gone, or the answer
            reason = " ".join(str(error).split())[:300]
            self._replace_worker(busy.job, f"worker died: {reason}", pending, writers, progress)
            return
        for records in answers:
            if reason := _out_of_memory(records):
                ray.kill(busy.worker)  # what fragmented its memory goes with it
                self._replace_worker(busy.job, f"worker died: {reason}", pending, writers, progress)
                return
        self.idle.append(busy.worker)
        for method, records in zip(busy.job.methods, answers, strict=True):
            writers[method].append(records)
            progress.question_done(records)

    def _replace_worker(
        self,
        job: Job,
        reason: str,
        pending: deque[Job],
        writers: Writers,
        progress: PoolProgress,
    ) -> None:
        """A worker is gone: start another, and try its question again or record it as failed."""
        self.start_worker()
        question = job.question
        for single in job.split():
            (method,) = single.methods
            if self.tries[question.id, method] < TRIES:
                progress.say(f"question {question.id}, {method}: {reason[:100]}; tried again")
                pending.append(single)
                continue
            progress.say(
                f"question {question.id}, {method}: {TRIES} workers died on it; recorded as failed"
            )
            spec = self._spec(method)
            paradigm = paradigms.load(spec.paradigm.name)
            writers[method].append(failed_records(spec, paradigm, question, reason))
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
        # of its own, beside whatever cluster runs on this machine
        options |= {"address": "local", "include_dashboard": False}
        if not plan.gpus:
            options["num_cpus"] = max(plan.workers, os.cpu_count() or 1)
    if plan.address:
        check_reachable(plan.address)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        if not plan.address:
            raise UserError(f"cannot start Ray on this machine: {reason}") from None
        raise UserError(unreachable(plan.address, reason)) from None
    finally:
        interrupts.listen_again()  # Ray sets a handler of its own
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


def check_reachable(address: str) -> None:
    """Raise UserError within seconds where no Ray cluster answers at this address.

    Ray itself would try for minutes. `auto` is looked up by Ray.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--ray-address is HOST:PORT or 'auto', not '{address}'")
    try:
        with socket.create_connection((host, int(port)), timeout=REACH_SECONDS):
            pass
    except OSError as error:
        raise UserError(unreachable(address, error.strerror or str(error))) from None
    if address.startswith("ray://"):
        return
    asked = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        is_ray = not subprocess.run(asked, capture_output=True, timeout=HEALTH_SECONDS).returncode
    except subprocess.TimeoutExpired:
        is_ray = False
    if not is_ray:
        raise UserError(unreachable(address, "something listens there, but it is no Ray cluster"))


def unreachable(address: str, reason: str) -> str:
    return f"cannot reach Ray at {address}: {reason}; start it with: ray start --head"


def run_pool(specs: Items[RunSpec], argv: list[str], questions: list[Question]) -> int:
    """The whole run over workers; returns the exit code."""
    first = specs[0]
    plan = Placement.of(first.workers)
    model = first.model
    if not plan.gpus and not model.threads:
        model = replace(model, threads=1)
    plan = connect(plan)
    workers = replace(first.workers, workers=plan.workers)
    placed = [replace(spec, model=model, workers=workers) for spec in specs]
    pool = Pool(placed, argv, questions, plan)
    driver = {
        "git": manifest.git_state(),
        "workers": plan.workers,
        "gpus_per_worker": plan.gpus,
    }
    try:
        for _ in range(min(plan.workers, len(questions))):
            pool.start_worker()
        with contextlib.ExitStack() as files:
            writers = {}
            for described in pool.first_ready():
                spec = described.spec
                written = Manifest({**described.manifest.data, **driver})
                writer = RecordWriter(spec.path, written, described.generations)
                writers[spec.method.name] = files.enter_context(writer)
            _run(pool, writers)
    finally:
        ray.shutdown()
    return report_failures(list(writers.values()))


def jobs(questions: list[Question], writers: Writers) -> list[Job]:
    """What is left to answer; who begins changes from question to question."""
    left: dict[str, list[str]] = {}
    for method, writer in writers.items():
        for question in remaining(questions, writer):
            left.setdefault(question.id, []).append(method)
    todo = []
    for number, question in enumerate(questions):
        if methods := left.get(question.id):
            todo.append(Job(question, tuple(rotated(methods, number))))
    return todo


def _run(pool: Pool, writers: Writers) -> None:
    """Answer what is not done, with progress, and say how busy the workers were."""
    todo = jobs(pool.questions, writers)
    left = sum(len(job.methods) for job in todo)
    total = len(pool.questions) * len(writers)
    name = pool.specs[0].method.name if len(pool.specs) == 1 else f"{len(pool.specs)} methods"
    progress = PoolProgress(f"{name} x {pool.placement.workers} workers", total, total - left)
    begun = time.perf_counter()
    try:
        with resumable():
            pool.run(todo, writers, progress)
    finally:
        progress.close()
    share = pool.share_answering(time.perf_counter() - begun)
    if left and not math.isnan(share):
        print(f"workers spent {share:.0%} of the run answering")
