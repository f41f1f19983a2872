"""Replays a question's generations with every variant: records, tallies, bounds."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from evaluation.analysis import replays
from evaluation.analysis.bounds import Bounds, bounds
from evaluation.analysis.replays import MethodTally, Steps
from evaluation.records.schema import Record, prompt_hash, run_lengths
from evaluation.replaying import target
from evaluation.replaying.combination import combined
from evaluation.replaying.encoding import Encoder
from evaluation.replaying.plan import Plan, Variant
from evaluation.replaying.topk import is_whole, topk_of_steps
from evaluation.replaying.trace import Trace
from model.contract import NO_CAP, Drafter, Request
from model.engine.replay import Replay, Script, replay
from model.engine.sequence import Generation
from model.errors import UserError
from model.network import read_tokenizer

FIRST = 0
END_THINK = "</think>"


@dataclass
class QuestionResult:
    """Of one question; by the variants' labels."""

    question: str
    lines: dict[str, str] = field(default_factory=dict)
    """Records as they are written."""
    tallies: dict[str, MethodTally] = field(default_factory=dict)
    bounds: dict[str, Bounds] = field(default_factory=dict)
    """By scope."""
    combination: Steps | None = None
    """Of the best of all variants at every step."""
    generations: int = 0
    tokens: int = 0
    skipped: list[str] = field(default_factory=list)
    """Why generations were left out."""
    partial: set[str] = field(default_factory=set)
    """Variants that learn from the target's likeliest tokens and were told a part of them only."""


@dataclass(frozen=True)
class _Generation:
    """A trace ready to be replayed."""

    trace: Trace
    script: Script


class Replayer:
    """Holds a drafter a variant, and the tokenizer."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        tokenizer = read_tokenizer(plan.target.path) if plan.target.path else None
        self._encoder = Encoder(tokenizer, plan.stop_ids, plan.questions, plan.uses_chat)
        self._drafters = {v.label: self._drafter(v) for v in plan.variants}
        # what learns from the target's own tokens depends on its own drafts, not on the best ones
        others = [self._drafter(variant) for variant in plan.variants]
        others = [drafter for drafter in others if not drafter.needs.target_topk]
        is_asked = plan.wants_bounds and len(others) > 1
        self._together = others if is_asked else []

    def question(self, name: str) -> QuestionResult:
        """Everything of one question. Raises UserError for a trace that cannot be replayed."""
        result = QuestionResult(name)
        ready = self._ready(name, result)
        if not ready:
            return result
        texts = [(item.script.request.prompt_ids, item.script.ids) for item in ready]
        matches = replays.match_lengths(texts)
        for variant in self.plan.variants:
            records = self._records(variant, ready)
            end = self.plan.end_think_id
            if self._is_partial(variant, ready):
                result.partial.add(variant.label)
            result.tallies[variant.label] = replays.tally(records, matches, end)
            if self.plan.wants_records:
                result.lines[variant.label] = "".join(record.line() for record in records)
        if self.plan.wants_bounds:
            for scope in ("request", "question"):
                result.bounds[scope] = bounds(texts, is_shared=scope == "question")
        if self._together:
            scripts = [item.script for item in ready]
            result.combination = combined(self._together, scripts, name)
        result.generations = len(ready)
        result.tokens = sum(len(item.script.ids) for item in ready)
        return result

    def _is_partial(self, variant: Variant, ready: Sequence[_Generation]) -> bool:
        if not self._drafters[variant.label].needs.learns_from_rejected:
            return False
        return any(not is_whole(item.trace.target_topk) for item in ready)

    def _ready(self, name: str, result: QuestionResult) -> list[_Generation]:
        ready = []
        for trace in self.plan.corpus.load(name):
            if trace.max_new_tokens is None:
                trace = replace(trace, max_new_tokens=self.plan.budgets)
            try:
                ready.append(_Generation(trace, self._encoder.script(trace)))
            except UserError as error:
                if not self.plan.skips_bad:
                    raise
                result.skipped.append(str(error))
        return ready

    def _drafter(self, variant: Variant) -> Drafter:
        drafter = target.build(variant.method, self.plan.target, variant.options)
        if variant.scope:
            drafter.remember(variant.scope)
        _warm_up(drafter)
        drafter.enter("run", self.plan.model_id)
        return drafter

    def _records(self, variant: Variant, ready: Sequence[_Generation]) -> list[Record]:
        drafter = self._drafters[variant.label]
        target.check_topk(variant.method, drafter, [item.trace for item in ready])
        drafter.enter("question", ready[FIRST].trace.question_id)
        records: dict[int, Record] = {}
        for group in _groups(ready, self.plan.interleave):
            for number, generation in self._in_turn(variant, drafter, ready, group):
                records[number] = self._record(variant, drafter, ready[number], generation)
        return [records[number] for number in sorted(records)]

    def _in_turn(
        self,
        variant: Variant,
        drafter: Drafter,
        ready: Sequence[_Generation],
        group: Sequence[int],
    ) -> Iterator[tuple[int, Generation]]:
        """The generations of a group, a step of each in turn."""
        under_way: dict[int, Replay] = {}
        for number in group:
            item = ready[number]
            drafter.enter("request", f"{item.trace.where}/{number}")
            session = drafter if len(group) == 1 else drafter.session()
            script = item.script
            if item.trace.target_topk and session.needs.target_topk:
                width = session.needs.target_topk
                topk = topk_of_steps(
                    item.trace.target_topk, item.trace.where, width, self.plan.target.vocab_size
                )
                script = replace(script, topk=topk)
            under_way[number] = Replay(session, script, variant.max_nodes)
        while under_way:
            for number, replaying in list(under_way.items()):
                if replaying.finished:
                    del under_way[number]
                    yield number, replaying.result()
                else:
                    replaying.step()

    def _record(
        self, variant: Variant, drafter: Drafter, item: _Generation, generation: Generation
    ) -> Record:
        trace, request = item.trace, item.script.request
        text = trace.text if isinstance(trace.text, str) else trace.plain_text
        final = trace.final_answer
        if final is None and END_THINK in text:
            final = text.rpartition(END_THINK)[2].strip()
        temperature = trace.temperature
        return Record(
            question_id=trace.question_id,
            category=trace.category,
            paradigm=self.plan.paradigm,
            choice=trace.choice,
            sample=trace.sample or 0,
            round=trace.round,
            seed=trace.seed,
            method=variant.label,
            temperature=self.plan.temperature if temperature is None else temperature,
            memory_scope=drafter.scope,
            model_id=self.plan.model_id,
            answer_id=uuid.uuid4().hex,
            prompt_tokens=len(request.prompt_ids),
            prompt_hash=prompt_hash(request.prompt_ids),
            finish_reason="stop" if trace.complete else "length",
            output_ids=generation.output_ids,
            text=text,
            new_tokens=len(generation.output_ids),
            forced_tokens=trace.forced_tokens,
            accept_lengths=generation.accept_lengths,
            draft_lengths=generation.draft_lengths,
            draft_source=run_lengths(generation.sources),
            prefill_time=None,
            wall_time=None,
            draft_time=generation.times.draft,
            verify_time=None,
            accept_time=None,
            other_time=None,
            peak_memory=None,
            energy=None,
            error="",
            tstamp=time.time(),
            shared=False,
            reference_answer=trace.reference_answer,
            final_answer=final,
            origin="replay",
            prompt_ids=request.prompt_ids,
        )


def _warm_up(drafter: Drafter) -> None:
    """A few words that are not recorded: compiled code is loaded before anything is timed."""
    words = [1, 2, 3, 4] * 3
    replay(drafter, Script(Request(words, len(words)), words))


def _groups(ready: Sequence[_Generation], size: int) -> list[list[int]]:
    """Generations by number, at most `size` together: samples of one round, in their order."""
    rounds: dict[tuple[int, int], list[int]] = {}
    for number, item in enumerate(ready):
        rounds.setdefault((item.trace.choice, item.trace.round), []).append(number)
    if size == 1:
        return [[number] for number in range(len(ready))]
    groups = []
    for numbers in rounds.values():
        groups += [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return groups


def most_nodes(variant: Variant, drafter: Drafter) -> int:
    """The budget of a draft, root included."""
    return min(variant.max_nodes or NO_CAP, drafter.needs.max_nodes)
