"""This benchmark's own records: token ids, no tokenizer needed."""

from __future__ import annotations

from typing import Any

from evaluation.records.schema import parse_record
from evaluation.replaying.formats import ReadOptions
from evaluation.replaying.trace import Fields, Trace
from model.errors import UserError

RANK = 0
FIRST_WITH_PROMPTS = 4
"""The record schema that brought the prompts' ids."""


def matches(data: dict[str, Any], fields: Fields) -> bool:
    return "schema" in data and "accept_lengths" in data


def read(data: dict[str, Any], where: str, options: ReadOptions) -> list[Trace]:
    """Generations without text are left out: failed, or called off before they began."""
    record = parse_record(data, where)
    if record.schema < FIRST_WITH_PROMPTS:
        raise UserError(
            f"{where}: records of schema {record.schema} do not hold their prompts' ids; run again"
            " with this version to replay them"
        )
    if record.failed or record.never_began:
        return []
    return [
        Trace(
            where=where,
            question_id=record.question_id,
            prompt=record.prompt_ids,
            text=record.output_ids,
            sample=record.sample,
            round=record.round,
            choice=record.choice,
            complete=record.finish_reason == "stop",
            category=record.category,
            temperature=record.temperature,
            seed=record.seed,
            plain_text=record.text,
            is_ours=True,
            forced_tokens=record.forced_tokens or 0,
            reference_answer=record.reference_answer,
            final_answer=record.final_answer,
            target_topk=record.target_topk,
        )
    ]
