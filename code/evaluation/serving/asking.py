"""A paradigm on a server: its generations as requests, one record each."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from evaluation.paradigms import Answer, Ask, Enough, GenerationKey, Message
from evaluation.records.schema import Record, prompt_hash, run_lengths
from evaluation.running.recording import failed_record, identity, unneeded_record
from evaluation.running.spec import RunSpec
from evaluation.serving.client import Client, Reply, ReplyFailed, RequestRefused, ServerGone
from evaluation.serving.engines import Engine, Steps
from evaluation.serving.libraries import Library
from evaluation.serving.shares import Charge, Shares
from evaluation.tasks import Question

SEED_BITS = 31
CONTEXT_WORDS = ("context", "max_model_len", "too long", "exceed")
"""In a refusal: the prompt or the budget is too long, and always will be."""
NOTHING = Answer("", None)


Asked = Client | Library
"""Who answers requests."""


@dataclass(frozen=True)
class Serving:
    """Who is asked, and how."""

    client: Asked
    engine: Engine
    model: str
    """What it is served as."""
    is_streaming: bool = True
    end_think: str = "</think>"
    """Text that ends thinking; empty for a model that does not think."""


@dataclass(frozen=True)
class Outcome:
    """A generation's record and what the paradigm gets of it."""

    record: Record
    answer: Answer = NOTHING


@dataclass
class EngineRunner:
    """Answers questions by asking a server, with so many requests in flight over all threads."""

    spec: RunSpec
    serving: Serving
    paradigm: ModuleType
    concurrency: int
    device: str = ""
    """What the server runs on, for tables."""
    shares: Shares = field(default_factory=Shares)
    on_reply: Callable[[Reply], None] = lambda reply: None

    def __post_init__(self) -> None:
        self._room = threading.Semaphore(self.concurrency)

    def answer(self, question: Question) -> list[Record]:
        """All generations of one question, in the paradigm's order.

        Raises ServerGone where no later question could be answered either.
        """
        records: list[Record] = []
        instruction = self.spec.questions.answer_instruction
        text = f"{question.text}\n\n{instruction}" if instruction else question.text
        for choice in range(self.spec.paradigm.num_choices):
            asker = EngineAsker(self, question, choice, records)
            self.paradigm.run(text, asker, self.spec.paradigm.config)
        return records

    def body(self, question: Question, messages: list[Message], key: GenerationKey) -> dict:
        """One generation's request."""
        generation = self.spec.generation
        body: dict[str, Any] = {
            "model": self.serving.model,
            "messages": messages,
            "max_tokens": generation.max_new_tokens,
            "temperature": generation.temperature,
            # said though it is the protocol's default: servers have their own
            "top_p": generation.sampling_top_p,
            "seed": seed_of(generation.seed, question.id, key),
        }
        if generation.sampling_top_k:
            body["top_k"] = generation.sampling_top_k
        if self.serving.is_streaming:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return self.serving.engine.asked(body)

    def ask(self, question: Question, choice: int, ask: Ask) -> Outcome:
        """One generation, once there is room for its request."""
        key = GenerationKey(choice, ask.sample, ask.round)
        body = self.body(question, ask.messages, key)
        with self._room:
            try:
                reply, charge = self._reply(body)
            except RequestRefused as error:
                text = str(error)
                is_context = any(word in text for word in CONTEXT_WORDS)
                why = f"context: {text}" if is_context else text
                return Outcome(failed_record(self.spec, question, key, why))
            except ReplyFailed as error:
                if not self.serving.client.is_healthy():
                    raise ServerGone(
                        f"{self.serving.client.base_url} went away ({error}); finished questions"
                        " are saved, the same command goes on"
                    ) from None
                return Outcome(failed_record(self.spec, question, key, str(error)))
        self.on_reply(reply)
        answer = answer_of(reply, self.serving.end_think)
        steps = self.serving.engine.steps(reply)
        return Outcome(self._record(question, key, ask, reply, charge, steps, answer), answer)

    def _reply(self, body: dict[str, Any]) -> tuple[Reply, Charge]:
        """The reply, and what its own try is charged: what failed before is not timed."""
        charges: list[Charge] = []

        def sent() -> None:
            if charges:
                self.shares.end(charges[-1])
            charges.append(self.shares.begin())

        try:
            reply = self.serving.client.chat(body, sent)
        finally:
            if charges:
                self.shares.end(charges[-1])
        return reply, charges[-1]

    def _record(
        self,
        question: Question,
        key: GenerationKey,
        ask: Ask,
        reply: Reply,
        charge: Charge,
        steps: Steps,
        answer: Answer,
    ) -> Record:
        wall = charge.seconds
        # the first token's part of the time that is charged
        prefill = wall * min(1.0, (reply.first_token or 0.0) / reply.seconds)
        emitted = list(steps.emitted)
        ids = self.serving.engine.token_ids(reply)
        if len(ids) != reply.new_tokens:
            ids = []  # some were not told: none are known then
        is_whole = 1 + sum(emitted) == len(ids)
        return Record(
            **identity(self.spec, question, key),
            prompt_tokens=reply.prompt_tokens,
            prompt_hash=_prompt_hash(reply, ask.messages),
            prompt_ids=reply.prompt_ids,
            finish_reason="length" if reply.finish_reason == "length" else "stop",
            output_ids=ids,
            text=answer.text,
            new_tokens=reply.new_tokens,
            forced_tokens=0,
            accept_lengths=emitted if is_whole else [],
            draft_lengths=list(steps.drafted) if is_whole else [],
            draft_source=run_lengths(steps.sources) if is_whole else [],
            prefill_time=prefill,
            wall_time=wall,
            draft_time=0.0,
            verify_time=0.0,
            accept_time=0.0,
            other_time=wall - prefill,
            peak_memory=None,
            energy=None,
            error="",
            final_answer=answer.final,
            origin="engine",
            batch=charge.most,
            latency=reply.seconds,
            target_forwards=steps.forwards if steps.forwards is not None else len(emitted) or None,
            first_token_time=reply.first_token,
            retries=reply.retries,
        )


@dataclass(frozen=True)
class EngineAsker:
    """What a paradigm calls for its generations (`paradigms.Generate`); their records are kept."""

    runner: EngineRunner
    question: Question
    choice: int
    records: list[Record]

    def __call__(self, messages: list[Message], sample: int = 0, round: int = 0) -> Answer:
        (answer,) = self.many([Ask(messages, sample, round)])
        return answer

    def many(self, asks: list[Ask]) -> list[Answer]:
        outcomes = self._together(asks)
        self.records.extend(outcome.record for outcome in outcomes)
        return [outcome.answer for outcome in outcomes]

    def until(self, is_enough: Enough, asks: list[Ask]) -> list[Answer]:
        """In groups of as many requests as may be in flight; the groups behind are not sent."""
        answers: list[Answer] = []
        size = self.runner.concurrency
        for begin in range(0, len(asks), size):
            group = asks[begin : begin + size]
            if is_enough(answers):
                for ask in group:
                    key = GenerationKey(self.choice, ask.sample, ask.round)
                    self.records.append(unneeded_record(self.runner.spec, self.question, key))
                continue
            answers += self.many(group)
        return answers

    def _together(self, asks: list[Ask]) -> list[Outcome]:
        if len(asks) == 1:
            return [self.runner.ask(self.question, self.choice, asks[0])]
        with ThreadPoolExecutor(len(asks)) as threads:
            return list(
                threads.map(lambda ask: self.runner.ask(self.question, self.choice, ask), asks)
            )


def seed_of(seed: int, question_id: str, key: GenerationKey) -> int:
    """A request's seed: another one for every generation, the same in every run."""
    name = f"{seed} {question_id} {key.choice} {key.sample} {key.round}"
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - SEED_BITS)


def answer_of(reply: Reply, end_think: str) -> Answer:
    """The whole text, and what follows the thinking; None where the thinking never ended."""
    if reply.reasoning:
        final = reply.text.strip()
        return Answer(f"{reply.reasoning}{end_think}{reply.text}", final or None)
    if not end_think:
        return Answer(reply.text, reply.text.strip())
    _, found, after = reply.text.rpartition(end_think)
    return Answer(reply.text, _without_markers(after) if found else None)


def _without_markers(text: str) -> str:
    """An answer without the end-of-turn marker that stands behind it."""
    return text.split("<|")[0].removesuffix("</s>").strip()


def _prompt_hash(reply: Reply, messages: list[Message]) -> str:
    """Of the prompt's ids where they are told, else of the messages."""
    if reply.prompt_ids:
        return prompt_hash(reply.prompt_ids)
    return prompt_hash(json.dumps(messages).encode())
