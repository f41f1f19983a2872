"""A drafter on a target under a paradigm: answers questions, one record a generation."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Protocol

import torch

from evaluation.paradigms import Answer, Ask, Enough, GenerationKey, Message, user
from evaluation.records.schema import UNNEEDED, Record
from evaluation.running.control import POSITIONS, Control
from evaluation.running.keeping import Keeper
from evaluation.running.meter import Meter, Usage, share_of
from evaluation.running.prompting import answer_of, prompt_ids, special_texts
from evaluation.running.recording import failed_record, finished_record, unneeded_record
from evaluation.running.spec import RunSpec
from evaluation.running.tuning import ROWS, Tuned
from evaluation.tasks import Question
from model.checkpoint import Loaded
from model.contract import NO_CAP, Drafter, Request
from model.engine.decode import check, generate, generate_together
from model.engine.forward import Wanted
from model.engine.sequence import Generation, Sequence
from model.errors import UserError, printable

WARMUP_TOKENS = 64
NOTHING = Answer("", None)


class Listener(Protocol):
    """Who wants to know how a run gets on."""

    def generation(self, name: str) -> None:
        """A generation begins; `name` tells question, sample and round."""
        ...

    def step(self, sequence: Sequence) -> None:
        """A step of it is done."""
        ...


@dataclass(frozen=True)
class Outcome:
    """A generation's record and what the paradigm gets of it: nothing where it failed."""

    record: Record
    answer: Answer = NOTHING


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

    @property
    def slots(self) -> int:
        """Most generations that are decoded together."""
        return most_together(self.spec, self.paradigm)

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
        model.reserve(self.rows(longest_prompt), self.slots)
        self.drafter.reserve(self.positions(longest_prompt), self.slots)
        if self.tuned.costs:
            self.drafter.know_costs(self.tuned.costs)
        topk = max(needs.target_topk, self.spec.record_topk)
        wanted = Wanted(feature_layers=needs.feature_layers, target_topk=topk)
        draws = generation.temperature > 0 and generation.only_temperature
        recorded = model.prepare(self.nodes, wanted, draws)
        if draws and needs.carries_distribution:  # the forward cannot draw after such a draft
            model.prepare(self.nodes, wanted, draws=False)
        if recorded:
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
        for choice in range(self.spec.paradigm.num_choices):
            asker = Asker(self, question, choice, listener, records)
            self.paradigm.run(self.asked(question), asker, self.spec.paradigm.config)
        return records

    def generate(
        self,
        question: Question,
        choice: int,
        asks: list[Ask],
        listener: Listener,
        is_enough: Enough | None = None,
    ) -> list[Outcome]:
        """Generations in one forward a step; those too long for the context fail alone.

        Those that are not done when `is_enough` says so of the answers before them are called off.
        """
        requests: list[Request] = []
        too_long: dict[int, Outcome] = {}
        for number, ask in enumerate(asks):
            key = GenerationKey(choice, ask.sample, ask.round)
            request = self.request(question, ask.messages, key)
            try:
                check(self.loaded.model, request)  # a later round's prompt quotes an answer
                requests.append(request)
            except UserError as error:
                why = f"context: {error}"
                too_long[number] = Outcome(failed_record(self.spec, question, key, why, request))
        may_end = None
        if is_enough:
            may_end = partial(self._are_enough, is_enough, len(asks), too_long)
        others = iter(self._together(question, requests, listener, may_end))
        return [too_long.get(number) or next(others) for number in range(len(asks))]

    def _are_enough(
        self,
        is_enough: Enough,
        asked: int,
        too_long: dict[int, Outcome],
        sequences: list[Sequence],
    ) -> bool:
        """Are the answers enough, up to the first that is not there yet?"""
        others = iter(sequences)
        answers = []
        for number in range(asked):
            if number in too_long:
                answers.append(NOTHING)
                continue
            sequence = next(others)
            if not sequence.finished:
                break
            answers.append(self._answer(sequence.ids, sequence.request))
        return is_enough(answers)

    def unneeded(self, question: Question, choice: int, ask: Ask) -> Outcome:
        """A generation that was not begun."""
        key = GenerationKey(choice, ask.sample, ask.round)
        request = self.request(question, ask.messages, key)
        return Outcome(unneeded_record(self.spec, question, key, request))

    def _together(
        self,
        question: Question,
        requests: list[Request],
        listener: Listener,
        is_enough: Callable[[list[Sequence]], bool] | None = None,
    ) -> list[Outcome]:
        """Records of requests that fit the context."""
        if not requests:
            return []
        name = _name_of(question, requests)
        listener.generation(name)
        self.drafter.enter("request", name)
        model, spec = self.loaded.model, self.spec
        control_before = self.control.step_time()
        keepers = [Keeper.of(spec, self.drafter) for _ in requests]
        meter = Meter(model.device)
        failure = ""
        try:
            generations = self._generations(requests, keepers, listener, is_enough)
        except UserError:
            raise
        except Exception as error:
            _raise_if_broken(model.device)
            # the drafter may be half-way, so it starts afresh
            self.drafter.enter("run", "after a failure")
            failure = f"{type(error).__name__}: {error}"
        if failure:  # here the error, and what its frames hold of the memory, is gone
            return self._after_failure(question, requests, listener, failure)
        usage = meter.usage()
        usage = replace(usage, peak_memory=usage.peak_memory - self.held_by_others)
        self.control.earn(sum(generation.times.wall for generation in generations))
        control_time = (control_before + self.control.step_time()) / 2
        share = share_of(usage, len(requests))
        outcomes = []
        for request, generation, keeper in zip(requests, generations, keepers, strict=True):
            outcomes.append(
                self._outcome(question, request, generation, share, control_time, keeper)
            )
        return outcomes

    def _after_failure(
        self, question: Question, requests: list[Request], listener: Listener, failure: str
    ) -> list[Outcome]:
        """Each request alone: one may be at fault, or all together too large. One alone failed."""
        if len(requests) > 1:
            outcomes = []
            for request in requests:
                outcomes += self._together(question, [request], listener)
            return outcomes
        (request,) = requests
        key = GenerationKey(request.choice, request.sample, request.round)
        return [Outcome(failed_record(self.spec, question, key, failure, request))]

    def _generations(
        self,
        requests: list[Request],
        keepers: list[Keeper | None],
        listener: Listener,
        is_enough: Callable[[list[Sequence]], bool] | None,
    ) -> list[Generation]:
        """A single one by the drafter itself, several by sessions of it."""
        model, drafter, nodes = self.loaded.model, self.drafter, self.nodes
        if len(requests) == 1:
            return [generate(model, drafter, requests[0], nodes, listener.step, keepers[0])]
        rows = self.spec.max_rows or NO_CAP
        return generate_together(
            model, drafter, requests, nodes, rows, listener.step, list(keepers), is_enough
        )

    def _answer(self, output_ids: list[int], request: Request) -> Answer:
        loaded = self.loaded
        return answer_of(loaded.tokenizer, loaded.family, output_ids, request.stop_ids)

    def _outcome(
        self,
        question: Question,
        request: Request,
        generation: Generation,
        usage: Usage,
        control_time: float,
        keeper: Keeper | None,
    ) -> Outcome:
        answer = self._answer(generation.output_ids, request)
        record = finished_record(
            self.spec,
            question,
            request,
            generation,
            answer,
            usage,
            control_time,
            keeper.kept() if keeper else None,
        )
        return Outcome(record, answer)


@dataclass(frozen=True)
class Asker:
    """What a paradigm calls for its generations (`paradigms.Generate`); their records are kept."""

    runner: Runner
    question: Question
    choice: int
    listener: Listener
    records: list[Record]

    def __call__(self, messages: list[Message], sample: int = 0, round: int = 0) -> Answer:
        (answer,) = self.many([Ask(messages, sample, round)])
        return answer

    def many(self, asks: list[Ask]) -> list[Answer]:
        answers = []
        for group in self._groups(asks):
            outcomes = self.runner.generate(self.question, self.choice, group, self.listener)
            self.records.extend(outcome.record for outcome in outcomes)
            answers += [outcome.answer for outcome in outcomes]
        return answers

    def until(self, is_enough: Enough, asks: list[Ask]) -> list[Answer]:
        answers: list[Answer] = []
        is_decided = False
        for group in self._groups(asks):
            for outcome in self._group_until(is_enough, answers, group, is_decided):
                record = outcome.record
                if is_decided and not record.failed:
                    # one that was ahead of its turn: others would not have made it
                    record = replace(record, finish_reason=UNNEEDED)
                self.records.append(record)
                if not is_decided:
                    answers.append(outcome.answer)
                    is_decided = is_enough(answers)
        return answers

    def _group_until(
        self, is_enough: Enough, before: list[Answer], group: list[Ask], is_decided: bool
    ) -> list[Outcome]:
        """The generations of one group, given the answers of the groups before it."""
        runner, question, choice = self.runner, self.question, self.choice
        if is_decided:
            return [runner.unneeded(question, choice, ask) for ask in group]
        before = list(before)
        return runner.generate(
            question, choice, group, self.listener, lambda new: is_enough([*before, *new])
        )

    def _groups(self, asks: list[Ask]) -> list[list[Ask]]:
        """As many as are decoded together."""
        size = self.runner.spec.parallel or max(1, len(asks))
        return [asks[begin : begin + size] for begin in range(0, len(asks), size)]


def _name_of(question: Question, requests: list[Request]) -> str:
    """For people: question, sample or samples, round."""
    first, last = requests[0], requests[-1]
    samples = f"s{first.sample}" if len(requests) == 1 else f"s{first.sample}-{last.sample}"
    return f"{printable(question.id)} {samples} r{first.round}"


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


def most_together(spec: RunSpec, paradigm: ModuleType) -> int:
    """Most generations of a question that are decoded together."""
    keys = generation_keys(spec, paradigm)
    samples = Counter((key.choice, key.round) for key in keys)
    most = max(samples.values())
    return min(spec.parallel or most, most)


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
