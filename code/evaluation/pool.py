"""The one-process loop spread over workers by Ray: GPUs of a machine, CPU processes, or a whole cluster.

Every worker loads the model once and takes questions from the queue as it becomes free. All generations of a question
stay on one worker, because drafters remember within a question; the driver is the single writer. A question whose
worker dies goes to another, at most twice, and is then recorded as failed.
"""

import argparse
import contextlib
import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.eval import Run, failed_records
from evaluation.manifest import git_state
from evaluation.progress import PoolProgress
from evaluation.records import Record
from evaluation.sharing import Sharing
from evaluation.tables import percent
from evaluation.tasks import DATA, Question
from evaluation.writer import RecordWriter
from model.errors import UserError

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError:
    raise UserError("several workers need Ray: pip install -e 'code[ray]'") from None

TRIES = 3            # a question is given to a worker, and then at most twice to another
START_SECONDS = 600  # loading a large model from a slow disk


@dataclass(frozen=True)
class Placement:
    """How many workers, and what each holds."""

    workers: int
    gpus: float
    address: str | None


def placement(args: argparse.Namespace) -> Placement | None:
    """From the flags; None means the plain loop in this process."""
    per_model = args.num_gpus_per_model
    if args.workers:
        return Placement(args.workers, 0, args.ray_address)
    if args.num_gpus_total is not None and (args.num_gpus_total > per_model or args.ray_address):
        return Placement(max(1, int(args.num_gpus_total / per_model)), per_model, args.ray_address)
    return Placement(0, per_model, args.ray_address) if args.ray_address else None


class Worker:
    """One copy of the model in a process of its own. Runs as a Ray actor."""

    def __init__(self, args: argparse.Namespace, workers: int, oversubscribed: bool, group: int) -> None:
        from evaluation import inference

        self._inference, self._args, self._workers = inference, args, workers
        self._oversubscribed, self._group = oversubscribed, group
        self._status, self._begun = "", time.perf_counter()
        self._seconds = 0.0
        self._run: Run | None = None

    def describe(self, argv: list[str], questions: list[Question]) -> tuple[dict[str, Any], int] | UserError:
        """Load, check the questions, warm up; the run's manifest and how many records a question yields."""
        from evaluation import manifest
        from evaluation.eval import warm_up

        try:
            self._run, settings = self._inference.build_run(self._args, questions, self._workers)
        except UserError as error:
            return error
        self._sharing = Sharing(self._run.loaded.target.device, self._oversubscribed, self._group)
        if self._run.settings.warmup:
            warm_up(self._run, questions[0], self)
        self._run.drafter.enter("run", self._run.settings.model_id)
        return manifest.build(settings, argv, self._run.loaded, questions), self._run.generations

    def answer(self, question: Question) -> list[Record]:
        """All records of a question."""
        begun = time.perf_counter()
        records = self._sharing.mark(self._run.answer(question, self.generation, self.step))
        self._seconds += time.perf_counter() - begun
        return records

    def seconds(self) -> float:
        """Spent answering so far."""
        return self._seconds

    def status(self) -> str:
        return self._status

    def pid(self) -> int:
        return os.getpid()

    def generation(self, what: str) -> None:
        self._what, self._begun = what, time.perf_counter()

    def step(self, sequence: Any) -> None:
        steps = sequence.accept_lengths
        rate = len(sequence.ids) / max(time.perf_counter() - self._begun, 1e-9)
        self._status = f"{self._what} {rate:.0f} tok/s MAT {sum(steps) / len(steps):.2f}"


@dataclass
class Pool:
    """The driver's side: starting, ready and busy workers, and the questions still to answer."""

    args: argparse.Namespace
    argv: list[str]
    questions: list[Question]
    plan: Placement
    worker: type = Worker
    starting: dict[Any, Any] = field(default_factory=dict)  # future of describe() -> worker
    idle: list[Any] = field(default_factory=list)
    busy: dict[Any, tuple[Any, Question]] = field(default_factory=dict)  # future of answer() -> (worker, question)
    tries: dict[str, int] = field(default_factory=dict)
    described: tuple[dict[str, Any], int] | None = None

    def start_worker(self) -> None:
        cores = os.cpu_count() or 1
        over = (self.plan.workers * (self.args.threads or 1) > cores and not self.plan.gpus) or 0 < self.plan.gpus < 1
        remote = ray.remote(max_concurrency=2, num_cpus=1, num_gpus=self.plan.gpus)(self.worker)
        worker = remote.remote(self.args, self.plan.workers, over, os.getpid())
        self.starting[worker.describe.remote(self.argv, self.questions)] = worker

    def poll_starting(self, seconds: float) -> str:
        """Take over workers that are ready; returns why one failed to start, or nothing."""
        ready, _ = ray.wait(list(self.starting), timeout=seconds) if self.starting else ([], [])
        reason = ""
        for future in ready:
            worker = self.starting.pop(future)
            try:
                found = ray.get(future)
            except RayError as error:
                reason = str(error).strip().split("\n")[-1]
                continue
            if isinstance(found, UserError):
                raise found
            self.described = self.described or found
            self.idle.append(worker)
        return reason

    def first_ready(self) -> tuple[dict[str, Any], int]:
        """Wait for one worker; its manifest and records a question."""
        deadline, reason = time.time() + START_SECONDS, ""
        while self.described is None:
            reason = self.poll_starting(1.0) or reason
            if not self.starting and self.described is None:
                raise UserError(f"no worker could start: {reason}")
            if time.time() > deadline:
                raise UserError(f"no worker started within {START_SECONDS} s; does the cluster have "
                                f"{self.plan.gpus:g} GPU(s) and a CPU for each? (`ray status`)")
        return self.described

    def run(self, todo: list[Question], writer: RecordWriter, progress: PoolProgress) -> None:
        """Hand out questions until all are answered or given up."""
        pending = deque(todo)
        while pending or self.busy:
            self.poll_starting(0)
            self._hand_out(pending)
            done, _ = ray.wait(list(self.busy), timeout=0.5) if self.busy else ([], [])
            for future in done:
                self._take(future, pending, writer, progress)
                self._hand_out(pending)
            if not self.busy and not self.idle:
                if not self.starting:
                    raise UserError("no worker is left and none can start; finished questions are saved, the same command "
                                    "goes on")
                self.poll_starting(1.0)
            progress.show([worker.status for worker, _ in self.busy.values()])

    def _hand_out(self, pending: deque) -> None:
        """A question for every idle worker."""
        while pending and self.idle:
            worker, question = self.idle.pop(), pending.popleft()
            self.tries[question.id] = self.tries.get(question.id, 0) + 1
            self.busy[worker.answer.remote(question)] = (worker, question)

    def share_answering(self, seconds: float) -> float:
        """Share of `seconds` that the workers still there have spent answering, all together; NaN where none is."""
        spent = []
        for future in [worker.seconds.remote() for worker in self.idle]:
            with contextlib.suppress(RayError):  # lost since its last question, which is written
                spent.append(ray.get(future))
        return sum(spent) / (len(spent) * seconds) if spent else float("nan")

    def _take(self, future: Any, pending: deque, writer: RecordWriter, progress: PoolProgress) -> None:
        worker, question = self.busy.pop(future)
        try:
            records = ray.get(future)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            raise
        except RayError as error:  # the worker, its memory or its node is gone, or the answer with it
            self._lost(question, f"worker died: {' '.join(str(error).split())[:300]}", pending, writer, progress)
            return
        if reason := next((r.error for r in records if out_of_memory(r)), ""):
            ray.kill(worker)  # what fragmented its memory goes with it
            self._lost(question, f"worker died: {reason}", pending, writer, progress)
            return
        self.idle.append(worker)
        writer.append(records)
        progress.question_done(records)

    def _lost(self, question: Question, reason: str, pending: deque, writer: RecordWriter, progress: PoolProgress) -> None:
        """The worker died or ran out of memory: start another, and try the question again or record it as failed."""
        self.start_worker()
        if self.tries[question.id] < TRIES:
            progress.say(f"question {question.id}: {reason[:100]}; it goes to another")
            pending.append(question)
            return
        progress.say(f"question {question.id}: {TRIES} workers died on it; recorded as failed")
        manifest, generations = self.described
        writer.append(failed_records(question, manifest["settings"], generations, reason))
        progress.question_done([])


def out_of_memory(record: Record) -> bool:
    """Did this generation fail for want of memory? Another worker may have more."""
    return record.failed and any(words in record.error for words in ("OutOfMemoryError", "MemoryError", "can't allocate memory"))


def connect(plan: Placement) -> Placement:
    """Join or start Ray; the packages travel with the job, weights and data do not."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
    if plan.address:
        code = Path(__file__).resolve().parents[1]
        options = {"log_to_driver": False, "logging_level": "error", "address": plan.address, "runtime_env": {
            "py_modules": [str(code / "model"), str(code / "evaluation")], "env_vars": {"SPECTTS_DATA": str(DATA)}}}
    elif plan.gpus == 0:
        options["num_cpus"] = max(plan.workers, os.cpu_count() or 1)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot reach Ray at {plan.address}: {str(error).splitlines()[0]}; "
                        f"start it with: ray start --head") from None
    resources = ray.cluster_resources()
    if plan.gpus * max(1, plan.workers) > resources.get("GPU", 0) and plan.gpus and not (plan.address and not plan.workers):
        raise UserError(f"{plan.workers} workers of {plan.gpus:g} GPU(s) are asked for; Ray sees {resources.get('GPU', 0):g}")
    if plan.workers:
        return plan
    gpus = resources.get("GPU", 0)
    workers = int(gpus / plan.gpus) if gpus and plan.gpus else int(resources.get("CPU", 1))
    return Placement(max(1, workers), plan.gpus if gpus else 0, plan.address)


def run_pool(args: argparse.Namespace, argv: list[str], questions: list[Question], plan: Placement, path: Path) -> int:
    """The whole run over workers."""
    args.threads = args.threads or (1 if not plan.gpus else 0)
    plan = connect(plan)
    pool = Pool(args, argv, questions, plan)
    try:
        for _ in range(min(plan.workers, len(questions))):
            pool.start_worker()
        book, generations = pool.first_ready()
        book.update(git=git_state(), workers=plan.workers, gpus_per_worker=plan.gpus)
        with RecordWriter(path, book, generations) as writer:
            for notice in writer.notices:
                print(notice)
            todo = [q for q in questions if q.id not in writer.done]
            if len(todo) < len(questions):
                print(f"{path}: {len(questions) - len(todo)} of {len(questions)} questions are done already")
            progress = PoolProgress(f"{args.method} x {plan.workers} workers", len(questions), len(questions) - len(todo), ray)
            begun = time.perf_counter()
            try:
                pool.run(todo, writer, progress)
            finally:
                progress.close()
            if todo:
                print(f"workers spent {percent(pool.share_answering(time.perf_counter() - begun))} of the run answering")
    finally:
        ray.shutdown()
    print(f"records: {path}")
    return 0
