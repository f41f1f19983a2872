"""The record of one generation.

One JSON line a generation; a failed generation has `finish_reason` "failed", its error, and no
numbers. Older schemas are read, and a record is written back in its own.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from model.errors import UserError

SCHEMA = 7
ADDED: dict[int, tuple[str, ...]] = {
    2: ("reference_answer", "final_answer"),
    3: (
        "in_turn",
        "control_time",
        "cpu_time",
        "waited_time",
        "other_load",
        "gpu_clock",
        "gpu_throttle",
    ),
    4: ("origin", "prompt_ids", "target_topk"),
    5: ("batch", "latency"),
    6: ("target_forwards", "first_token_time", "retries"),
    7: ("drafts",),
}
"""Fields by the schema that brought them; append only, so that old files stay readable."""
ORIGINS = ("run", "replay", "engine")
UNNEEDED = "unneeded"
"""`finish_reason` of a generation that its paradigm called off, under way or before it began."""
WOULD_COME_AGAIN = ("worker died", "context:")
"""How errors begin that would come again: a question that kills its workers, a prompt too long."""


@dataclass(frozen=True)
class Record:
    """One generation. Times in seconds, memory in bytes; lists have one entry a target forward."""

    question_id: str
    category: str
    paradigm: str
    choice: int
    sample: int
    round: int
    seed: int
    method: str
    temperature: float
    memory_scope: str
    model_id: str
    answer_id: str
    prompt_tokens: int
    prompt_hash: str
    finish_reason: str
    """'stop', 'length', 'unneeded' or 'failed'."""
    output_ids: list[int]
    text: str
    new_tokens: int | None
    forced_tokens: int | None
    accept_lengths: list[int]
    """Tokens emitted a step, the bonus included: vanilla's are all 1. The first token comes from
    the prefill."""
    draft_lengths: list[int]
    """Candidate nodes drafted a step, the root not counted."""
    draft_source: list[list[Any]]
    """Who drafted, run-length coded: [["sam", 3], ["none", 1], ...]."""
    prefill_time: float | None
    wall_time: float | None
    draft_time: float | None
    verify_time: float | None
    accept_time: float | None
    other_time: float | None
    peak_memory: int | None
    energy: float | None
    """Joules of the GPU's board while it ran, where NVML tells; None elsewhere."""
    error: str
    tstamp: float
    shared: bool
    """Another run used the same GPU or cores meanwhile: the times are not comparable."""
    reference_answer: str | None = None
    """The question's answer, None where none is known."""
    final_answer: str | None = None
    """The text after the thinking (all of it in a family without one); None where the thinking
    never ended."""
    in_turn: list[str] = field(default_factory=list)
    """The methods this question was put to one after the other in one process, this one among
    them; empty where the method ran alone."""
    control_time: float | None = None
    """Seconds of a vanilla step of fixed shape around this generation: how fast the machine was."""
    cpu_time: float | None = None
    """Processor seconds of the whole process."""
    waited_time: float | None = None
    """Seconds in which it could have run and had no core; None with several threads, on a GPU, and
    where the system does not tell."""
    other_load: float | None = None
    """Cores that other processes kept busy, on average; None where the system does not tell."""
    gpu_clock: int | None = None
    """MHz of the GPU's multiprocessors at the end, where NVML tells."""
    gpu_throttle: list[str] = field(default_factory=list)
    """What held the GPU's clock down at the end, where NVML tells."""
    origin: str = "run"
    """'run'; 'replay': a recorded text that a drafter went along, without times of a target; or
    'engine': a server's reply, of which tokens and steps are known as far as it tells."""
    prompt_ids: list[int] = field(default_factory=list)
    """Empty where they are not known: in a failed generation, and before schema 4."""
    target_topk: str | None = None
    """The target's likeliest tokens and their log-probabilities (`topk.py`), where asked for."""
    batch: int = 1
    """Generations decoded together, this one among them. The times of such a group are shared out
    equally, so that their sum is the group's time, once."""
    latency: float | None = None
    """Seconds from the group's beginning to this generation's end."""
    target_forwards: int | None = None
    """Of an engine's generation whose steps are not known one by one: the target's forwards behind
    the prefill; None where the engine does not tell."""
    first_token_time: float | None = None
    """Of an engine's generation: seconds from the request to its first token."""
    retries: int = 0
    """Requests to an engine that failed before the one that is recorded."""
    drafts: str | None = None
    """The drafted nodes of every step (`drafts.py`), where asked for."""
    schema: int = SCHEMA

    @property
    def is_replay(self) -> bool:
        return self.origin == "replay"

    @property
    def is_of_engine(self) -> bool:
        return self.origin == "engine"

    @property
    def steps(self) -> int:
        """Target forwards behind the prefill; 0 where they are not known."""
        return len(self.accept_lengths) or self.target_forwards or 0

    @property
    def emitted(self) -> int:
        """Tokens of these; 0 where they are not known."""
        if self.accept_lengths or not self.target_forwards:
            return sum(self.accept_lengths)
        return self.tokens - 1

    @property
    def failed(self) -> bool:
        return self.finish_reason == "failed"

    @property
    def is_whole(self) -> bool:
        """Is there an answer? Neither did it fail nor was it called off."""
        return not self.failed and self.finish_reason != UNNEEDED

    @property
    def never_began(self) -> bool:
        """Was it called off before its first token?"""
        return self.finish_reason == UNNEEDED and not self.output_ids

    @property
    def is_final(self) -> bool:
        """Is there nothing to gain from trying again? A failure may have been the machine's."""
        return not self.failed or self.error.startswith(WOULD_COME_AGAIN)

    @property
    def key(self) -> tuple[str, int, int, int]:
        """Which generation of the run this is: question, choice, sample, round."""
        return self.question_id, self.choice, self.sample, self.round

    @property
    def tokens(self) -> int:
        """Tokens emitted; 0 for a failed generation."""
        return self.new_tokens or 0

    @property
    def seconds(self) -> float:
        """Wall time; 0 for a failed generation."""
        return self.wall_time or 0.0

    def line(self) -> str:
        """The record's line in its file, in its own schema."""
        own = field_names(self.schema)
        values = {known.name: getattr(self, known.name) for known in fields(self)}
        values = {name: value for name, value in values.items() if name in own}
        return json.dumps(values, ensure_ascii=False) + "\n"


def field_names(schema: int) -> set[str]:
    """The fields of a record of this schema."""
    names = {known.name for known in fields(Record)}
    for since, added in ADDED.items():
        if since > schema:
            names -= set(added)
    return names


def prompt_hash(ids: Iterable[int]) -> str:
    """Tells prompts apart."""
    text = ",".join(map(str, ids))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_lengths(items: Iterable[str]) -> list[list[Any]]:
    """['a', 'a', 'b'] -> [['a', 2], ['b', 1]]."""
    coded: list[list[Any]] = []
    for item in items:
        if coded and coded[-1][0] == item:
            coded[-1][1] += 1
        else:
            coded.append([item, 1])
    return coded


_COUNTS = ("new_tokens", "forced_tokens")
_NUMBERS = (
    *_COUNTS,
    "prefill_time",
    "wall_time",
    "draft_time",
    "verify_time",
    "accept_time",
    "other_time",
)
KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list[int]": "a list of whole numbers",
    "list[str]": "a list of texts",
    "list[list[Any]]": "a list of pairs",
}
"""Types of fields in words."""


def parse_record(data: dict[str, Any], where: str) -> Record:
    """A record from its JSON object; `where` names file and line for the UserError it may raise."""
    schema = data.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise UserError(
            f"{where}: record schema {schema!r} is unknown; this version reads schemas 1 to"
            f" {SCHEMA}"
        )
    expected = field_names(schema)
    if set(data) != expected:
        differing = ", ".join(sorted(set(data) ^ expected))
        raise UserError(
            f"{where}: not a record of schema {schema}: missing or unknown fields: {differing}"
        )
    record = Record(**data)
    _check_types(record, where)
    if record.origin not in ORIGINS:
        raise UserError(f"{where}: origin is one of {', '.join(ORIGINS)}, not '{record.origin}'")
    if not record.failed and not record.never_began:
        _check_numbers(record, where)
        _check_counts(record, where)
    return record


@functools.cache
def _kinds() -> dict[str, tuple[str, bool]]:
    """Of every field: the type its annotation names, and may it be None?"""
    kinds = {}
    for known in fields(Record):
        kind, _, alternative = str(known.type).partition(" | ")
        kinds[known.name] = kind, bool(alternative)
    return kinds


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return type(value) is int
    if kind == "float":
        return type(value) in (int, float) and math.isfinite(value)
    if kind == "str":
        return isinstance(value, str)
    if not isinstance(value, list):
        return False
    if kind == "list[list[Any]]":
        return all(isinstance(item, list) and len(item) == 2 for item in value)
    item_type = {"list[int]": int, "list[str]": str}[kind]
    return all(type(item) is item_type for item in value)


def _check_types(record: Record, where: str) -> None:
    """Raise UserError for a field of another type than it has; NaN and infinity are no numbers."""
    wrong = []
    for name, (kind, may_be_none) in _kinds().items():
        value = getattr(record, name)
        if not (value is None and may_be_none) and not _is_kind(value, kind):
            wrong.append(f"{name} must be {KINDS[kind]}, not {shown(value)}")
    if wrong:
        raise UserError(f"{where}: {'; '.join(wrong[:3])}")


def shown(value: Any, most: int = 40) -> str:
    """A value for an error's line."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def _check_numbers(record: Record, where: str) -> None:
    """What numbers are made from must be numbers, in an order that a generation can have."""
    wrong = []
    for name in _COUNTS if record.is_replay else _NUMBERS:
        value = getattr(record, name)
        if value is None or value < 0:
            wrong.append(name)
    if not wrong and not record.is_replay and record.wall_time == 0:
        wrong = ["wall_time"]
    if wrong:
        raise UserError(
            f"{where}: {', '.join(wrong)} of a finished generation must be numbers of at least 0,"
            " wall_time above it"
        )


def _check_counts(record: Record, where: str) -> None:
    """Numbers that say the same thing must agree: tokens, steps."""
    if record.is_of_engine and not record.accept_lengths:
        if record.output_ids and len(record.output_ids) != record.new_tokens:
            raise UserError(
                f"{where}: new_tokens is {record.new_tokens}, output_ids are"
                f" {len(record.output_ids)}: they must agree"
            )
        return
    tokens, steps = len(record.output_ids), len(record.accept_lengths)
    emitted = 1 + sum(record.accept_lengths)  # the first token comes from the prefill
    if record.new_tokens != tokens or tokens != emitted:
        raise UserError(
            f"{where}: new_tokens is {record.new_tokens}, output_ids are {tokens}, accept_lengths"
            f" and the prefill's token make {emitted}: they must agree"
        )
    by_source = sum(count for _, count in record.draft_source if type(count) is int)
    if len(record.draft_lengths) != steps or by_source != steps:
        raise UserError(
            f"{where}: {steps} accept_lengths, {len(record.draft_lengths)} draft_lengths and"
            f" {by_source} steps of draft_source must be equally many"
        )
    if min(record.accept_lengths, default=1) < 1 or min(record.draft_lengths, default=0) < 0:
        raise UserError(f"{where}: accept_lengths must be at least 1, draft_lengths at least 0")
