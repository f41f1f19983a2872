"""The one loop: announce run, question and request to the drafter, run the paradigm, write a question's records.

Joins both sides: `model` decodes, the rest of `evaluation` asks, records and counts.
"""

import functools
import hashlib
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from evaluation import paradigms
from evaluation.meter import Meter
from evaluation.paradigms import Answer, Message
from evaluation.progress import Progress
from evaluation.prompting import answer_of, prompt_ids
from evaluation.records import Record, run_lengths
from evaluation.sharing import Sharing
from evaluation.tasks import Question
from evaluation.writer import RecordWriter
from model.checkpoint import Loaded
from model.draft import Drafter, Request
from model.engine.decode import Generation, Sequence, check, generate
from model.errors import UserError

WARMUP_TOKENS = 64


@dataclass(frozen=True)
class Settings:
    """What the records are a function of, beside model, questions and the drafter's own options."""

    method: str
    paradigm: str
    model_id: str
    temperature: float
    max_new_tokens: int
    seed: int
    num_choices: int
    memory_scope: str
    thinking_budget: float | None
    max_nodes: int
    warmup: int
    top_k: int = 0
    top_p: float = 1.0


@dataclass
class Run:
    """A drafter on a target under a paradigm, ready to answer questions."""

    settings: Settings
    loaded: Loaded
    drafter: Drafter
    paradigm: ModuleType
    paradigm_config: Any

    @property
    def generations(self) -> int:
        """Records a question yields."""
        return self.settings.num_choices * len(self.paradigm.generations(self.paradigm_config))

    def request(self, question: Question, messages: list[Message], choice: int, sample: int, round: int) -> Request:
        """The request of one generation."""
        s, loaded = self.settings, self.loaded
        forcing = None
        if s.thinking_budget is not None:
            forcing = loaded.family.forcing(loaded.tokenizer, int(s.thinking_budget * s.max_new_tokens))
        return Request(prompt_ids(loaded.tokenizer, messages), s.max_new_tokens, s.temperature, s.top_k, s.top_p,
                       s.seed, question.id, choice, sample, round, loaded.stop_ids, forcing)

    def prepare(self, questions: list[Question]) -> None:
        """Allocate for the longest text and record the engine's graphs before anything is timed."""
        target, s = self.loaded.target, self.settings
        longest = max(len(self.request(q, [{"role": "user", "content": q.text}], 0, 0, 0).prompt_ids) for q in questions)
        # a later round's prompt quotes an answer, which is what thinking leaves of the budget: a quarter on top
        positions = min(target.max_positions, longest + s.max_new_tokens * 5 // 4)
        nodes = min(s.max_nodes, self.drafter.needs.max_nodes)
        target.reserve(positions + nodes)
        self.drafter.reserve(positions)
        plain = s.top_k == 0 and s.top_p >= 1
        if target.prepare(nodes, self.drafter.needs.feature_layers, self.drafter.needs.topk, s.temperature > 0 and plain):
            print(f"recorded the {target.engine} engine's graphs in {target.static.seconds:.0f} s", file=sys.stderr)

    def check(self, questions: list[Question]) -> None:
        """Refuse, before anything is written, a question that does not fit the model's context."""
        for question in questions:
            check(self.loaded.target, self.request(question, [{"role": "user", "content": question.text}], 0, 0, 0))

    def answer(self, question: Question, on_generation: Callable[[str], None], on_step: Callable[[Sequence], None],
               ) -> list[Record]:
        """All generations of one question."""
        self.drafter.enter("question", question.id)
        records: list[Record] = []

        def ask(choice: int, messages: list[Message], sample: int = 0, round: int = 0) -> Answer:
            on_generation(f"{question.id} s{sample} r{round}")
            record, answer = self._generate(question, messages, choice, sample, round, on_step)
            records.append(record)
            return answer

        for choice in range(self.settings.num_choices):
            self.paradigm.run(question.text, functools.partial(ask, choice), self.paradigm_config)
        return records

    def _generate(self, question: Question, messages: list[Message], choice: int, sample: int, round: int,
                  on_step: Callable[[Sequence], None]) -> tuple[Record, Answer]:
        request = self.request(question, messages, choice, sample, round)
        self.drafter.enter("request", f"{question.id}/{choice}/{sample}/{round}")
        meter = Meter(self.loaded.target.device)
        try:
            check(self.loaded.target, request)  # a later round's prompt quotes an answer and may grow too long
        except UserError as error:
            return self._record(question, request, None, "", meter, f"context: {error}"), Answer("", None)
        try:
            result = generate(self.loaded.target, self.drafter, request, self.settings.max_nodes, on_step)
        except UserError:
            raise
        except Exception as error:
            _raise_if_broken(self.loaded.target.device)
            # recorded as failed, without numbers; the drafter may be half-way, so it starts afresh
            self.drafter.enter("run", "after a failure")
            return self._record(question, request, None, "", meter, f"{type(error).__name__}: {error}"), Answer("", None)
        answer = answer_of(self.loaded.tokenizer, self.loaded.family, result.output_ids, request.stop_ids)
        return self._record(question, request, result, answer.text, meter), answer

    def _record(self, question: Question, request: Request, result: Generation | None, text: str, meter: Meter,
                error: str = "") -> Record:
        s, times = self.settings, result.times if result else None
        prompt = ",".join(map(str, request.prompt_ids)).encode()
        return Record(
            question_id=question.id, category=question.category, paradigm=s.paradigm, choice=request.choice,
            sample=request.sample, round=request.round, seed=s.seed, method=s.method, temperature=s.temperature,
            memory_scope=s.memory_scope, model_id=s.model_id, answer_id=uuid.uuid4().hex,
            prompt_tokens=len(request.prompt_ids), prompt_hash=hashlib.sha256(prompt).hexdigest()[:16],
            finish_reason=result.finish_reason if result else "failed",
            output_ids=result.output_ids if result else [], text=text,
            new_tokens=len(result.output_ids) if result else None,
            forced_tokens=result.forced_tokens if result else None,
            accept_lengths=result.accept_lengths if result else [],
            draft_lengths=result.draft_lengths if result else [],
            draft_source=run_lengths(result.sources) if result else [],
            prefill_time=times and times.prefill, wall_time=times and times.wall, draft_time=times and times.draft,
            verify_time=times and times.verify, accept_time=times and times.accept, other_time=times and times.other,
            peak_memory=meter.peak_memory() if result else None, energy=meter.energy() if result else None, error=error,
            tstamp=time.time(), shared=False)


def failed_records(question: Question, settings: dict[str, Any], generations: int, error: str) -> list[Record]:
    """Records of a question whose worker died: without numbers, and without what only a worker knows."""
    paradigm = paradigms.load(settings["paradigm"])
    pairs = paradigm.generations(paradigm.Config(**settings["paradigm_options"]))
    return [Record(
        question_id=question.id, category=question.category, paradigm=settings["paradigm"], choice=i // len(pairs),
        sample=pairs[i % len(pairs)][0], round=pairs[i % len(pairs)][1], seed=settings["seed"], method=settings["method"],
        temperature=settings["temperature"], memory_scope=settings["memory_scope"], model_id=settings["model_id"],
        answer_id=uuid.uuid4().hex, prompt_tokens=0, prompt_hash="", finish_reason="failed", output_ids=[], text="",
        new_tokens=None, forced_tokens=None, accept_lengths=[], draft_lengths=[], draft_source=[], prefill_time=None,
        wall_time=None, draft_time=None, verify_time=None, accept_time=None, other_time=None, peak_memory=None, energy=None,
        error=error, tstamp=time.time(), shared=False) for i in range(generations)]


def _raise_if_broken(device: torch.device) -> None:
    """A GPU that no longer answers fails every later generation too: stop instead of recording them all as failed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_questions(run: Run, questions: list[Question], writer: RecordWriter, progress: Progress) -> None:
    """Warm up, forget what that taught, then answer every question that is not done."""
    todo = [q for q in questions if q.id not in writer.done]
    if todo and run.settings.warmup:
        warm_up(run, todo[0], progress)
    run.drafter.enter("run", run.settings.model_id)
    sharing = Sharing(run.loaded.target.device)
    try:
        for question in todo:
            writer.append(sharing.mark(run.answer(question, progress.generation, progress.step)))
            progress.question_done()
    finally:
        sharing.close()


def warm_up(run: Run, question: Question, progress: Progress) -> None:
    """Run a question with short generations and record nothing: kernels, allocators, lazily built tables."""
    short = replace(run, settings=replace(run.settings, max_new_tokens=min(WARMUP_TOKENS, run.settings.max_new_tokens)))
    for _ in range(run.settings.warmup):
        run.drafter.enter("run", "warm-up")
        short.answer(question, lambda what: progress.generation(f"warm-up {what}"), progress.step)
