"""A drafter on a target under a paradigm: answers questions, one record a generation."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Protocol

import torch

from evaluation.paradigms import Answer, GenerationKey, Message, user
from evaluation.records.schema import Record
from evaluation.running.control import POSITIONS, Control
from evaluation.running.meter import Meter
from evaluation.running.prompting import answer_of, prompt_ids, special_texts
from evaluation.running.recording import failed_record, finished_record
from evaluation.running.spec import RunSpec
from evaluation.running.topk import TopkRecorder
from evaluation.running.tuning import ROWS, Tuned
from evaluation.tasks import Question
from model.checkpoint import Loaded
from model.contract import NO_CAP, Drafter, Request
from model.engine.decode import check, generate
from model.engine.forward import Wanted
from model.engine.sequence import Sequence
from model.errors import UserError, printable

WARMUP_TOKENS = 64


class Listener(Protocol):
    """Who wants to know how a run gets on."""

    def generation(self, name: str) -> None:
        """A generation begins; `name` tells question, sample and round."""
        ...

    def step(self, sequence: Sequence) -> None:
        """A step of it is done."""
        ...


@dataclass(frozen=True)
class Runner:
    """Ready to answer questions; `spec` is resolved: nothing in it is 'auto'."""

    spec: RunSpec
    loaded: Loaded
    drafter: Drafter
    paradigm: ModuleType
    control: Control
    tuned: Tuned
    held: int = 0
    """Bytes of device memory that the drafter holds, at work or not."""
    held_by_others: int = 0
    """The same of the other methods in turn."""

    @property
    def generations(self) -> int:
        """Records a question yields."""
        return len(generation_keys(self.spec, self.paradigm))

    def request(self, question: Question, messages: list[Message], key: GenerationKey) -> Request:
        """The request of one generation."""
        generation, loaded = self.spec.generation, self.loaded
        forcing = None
        if generation.thinking_budget is not None:
            after = int(generation.thinking_budget * generation.max_new_tokens)
            forcing = loaded.family.forcing(loaded.tokenizer, after)
        return Request(
            prompt_ids=prompt_ids(loaded.tokenizer, messages, self.spec.questions.allow_special),
            max_new_tokens=generation.max_new_tokens,
            temperature=generation.temperature,
            sampling_top_k=generation.sampling_top_k,
            sampling_top_p=generation.sampling_top_p,
            seed=generation.seed,
            question_id=question.id,
            choice=key.choice,
            sample=key.sample,
            round=key.round,
            stop_ids=loaded.stop_ids,
            forcing=forcing,
        )

    def first_request(self, question: Question) -> Request:
        """The request a question begins with."""
        return self.request(question, [user(self.asked(question))], GenerationKey())

    def asked(self, question: Question) -> str:
        """The question's text as it is asked."""
        instruction = self.spec.questions.answer_instruction
        return f"{question.text}\n\n{instruction}" if instruction else question.text

    def check(self, questions: list[Question]) -> None:
        """Raise UserError for a question that does not fit the model's context.

        Says how many hold the text of special tokens, and what becomes of it.
        """
        special: dict[str, None] = {}
        for question in questions:
            check(self.loaded.model, self.first_request(question))
            special |= dict.fromkeys(special_texts(self.loaded.tokenizer, [user(question.text)]))
        if special:
            names = printable(", ".join(special))
            how = "these tokens" if self.spec.questions.allow_special else "text"
            print(
                f"note: special tokens in questions ({names}) are encoded as {how}", file=sys.stderr
            )

    @property
    def nodes(self) -> int:
        """Most nodes of a draft."""
        return min(self.spec.method.max_nodes or NO_CAP, self.drafter.needs.max_nodes)

    def longest_prompt(self, questions: list[Question]) -> int:
        """Tokens of the longest first prompt."""
        return max(len(self.first_request(question).prompt_ids) for question in questions)

    def positions(self, longest_prompt: int) -> int:
        """Tokens of the longest text to come."""
        positions = longest_prompt + text_positions(self.spec.generation.max_new_tokens)
        return min(self.loaded.model.max_positions, positions)

    def rows(self, longest_prompt: int) -> int:
        """Cache rows that takes."""
        return max(self.positions(longest_prompt) + self.nodes, POSITIONS, ROWS)

    def prepare(self, longest_prompt: int) -> None:
        """Allocate for the longest text and record the engine's graphs: nothing is timed yet."""
        model, generation, needs = self.loaded.model, self.spec.generation, self.drafter.needs
        model.reserve(self.rows(longest_prompt))
        self.drafter.reserve(self.positions(longest_prompt))
        if self.tuned.costs:
            self.drafter.know_costs(self.tuned.costs)
        topk = max(needs.target_topk, self.spec.record_topk)
        wanted = Wanted(feature_layers=needs.feature_layers, target_topk=topk)
        draws = generation.temperature > 0 and generation.only_temperature
        if model.prepare(self.nodes, wanted, draws):
            seconds = model.backend.recording_seconds
            print(
                f"recorded the {model.engine} engine's graphs in {seconds:.0f} s", file=sys.stderr
            )

    def warm_up(self, question: Question, listener: Listener) -> None:
        """Short generations that are not recorded: kernels, allocators, lazily built tables.

        What they taught the drafter is forgotten.
        """
        generation = self.spec.generation
        tokens = min(WARMUP_TOKENS, generation.max_new_tokens)
        short = replace(generation, max_new_tokens=tokens)
        runner = replace(self, spec=replace(self.spec, generation=short))
        for _ in range(self.spec.warmup):
            self.drafter.enter("run", "warm-up")
            runner.answer(question, Prefixed(listener, "warm-up "))
        self.drafter.enter("run", self.spec.model_id)

    def answer(self, question: Question, listener: Listener) -> list[Record]:
        """All generations of one question."""
        self.drafter.enter("question", question.id)
        records: list[Record] = []

        def ask(choice: int, messages: list[Message], sample: int = 0, round: int = 0) -> Answer:
            listener.generation(f"{printable(question.id)} s{sample} r{round}")
            key = GenerationKey(choice, sample, round)
            record, answer = self._generate(question, messages, key, listener.step)
            records.append(record)
            return answer

        for choice in range(self.spec.paradigm.num_choices):
            generate_choice = functools.partial(ask, choice)
            self.paradigm.run(self.asked(question), generate_choice, self.spec.paradigm.config)
        return records

    def _generate(
        self,
        question: Question,
        messages: list[Message],
        key: GenerationKey,
        on_step: Callable[[Sequence], None],
    ) -> tuple[Record, Answer]:
        model, spec = self.loaded.model, self.spec
        request = self.request(question, messages, key)
        self.drafter.enter("request", f"{question.id}/{key.choice}/{key.sample}/{key.round}")
        nothing = Answer("", None)
        try:
            check(model, request)  # a later round's prompt quotes an answer and may grow too long
        except UserError as error:
            return failed_record(spec, question, key, f"context: {error}", request), nothing
        control_before = self.control.step_time()
        topk = TopkRecorder.of(spec.record_topk, self.drafter)
        meter = Meter(model.device)
        try:
            generation = generate(model, self.drafter, request, self.nodes, on_step, topk)
        except UserError:
            raise
        except Exception as error:
            _raise_if_broken(model.device)
            # recorded as failed, without numbers; the drafter may be half-way, so it starts afresh
            self.drafter.enter("run", "after a failure")
            why = f"{type(error).__name__}: {error}"
            return failed_record(spec, question, key, why, request), nothing
        usage = meter.usage()
        usage = replace(usage, peak_memory=usage.peak_memory - self.held_by_others)
        self.control.earn(generation.times.wall)
        control_time = (control_before + self.control.step_time()) / 2
        loaded = self.loaded
        answer = answer_of(loaded.tokenizer, loaded.family, generation.output_ids, request.stop_ids)
        record = finished_record(
            spec,
            question,
            request,
            generation,
            answer,
            usage,
            control_time,
            topk.packed() if topk else None,
        )
        return record, answer


class Prefixed:
    """Hands on what is heard, with words before the name of every generation."""

    def __init__(self, listener: Listener, prefix: str) -> None:
        self._listener, self._prefix = listener, prefix

    def generation(self, name: str) -> None:
        self._listener.generation(self._prefix + name)

    def step(self, sequence: Sequence) -> None:
        self._listener.step(sequence)


def text_positions(max_new_tokens: int) -> int:
    """Cache positions of a text, its prompt aside.

    A later round's prompt quotes an answer, which is what thinking leaves of the budget: a quarter
    on top.
    """
    return max_new_tokens * 5 // 4


def generation_keys(spec: RunSpec, paradigm: ModuleType) -> list[GenerationKey]:
    """Every generation of a question, in order."""
    pairs = paradigm.generations(spec.paradigm.config)
    keys = []
    for choice in range(spec.paradigm.num_choices):
        keys += [GenerationKey(choice, sample, round) for sample, round in pairs]
    return keys


def failed_records(
    spec: RunSpec, paradigm: ModuleType, question: Question, error: str
) -> list[Record]:
    """Records of a question whose worker died: without numbers, and without their prompts."""
    keys = generation_keys(spec, paradigm)
    return [failed_record(spec, question, key, error) for key in keys]


def _raise_if_broken(device: torch.device) -> None:
    """A GPU that no longer answers fails every later generation too: stop, do not record them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
