"""JSON lines of one generation each, their fields named by flags."""

from __future__ import annotations

from typing import Any

from evaluation.replaying.formats import (
    ReadOptions,
    integers,
    label,
    messages,
    temperature,
    text,
    whole,
)
from evaluation.replaying.trace import Fields, Trace
from model.errors import UserError

RANK = 3


def matches(data: dict[str, Any], fields: Fields) -> bool:
    return fields.text in data or fields.ids in data


def read(data: dict[str, Any], where: str, options: ReadOptions) -> list[Trace]:
    fields = options.fields
    return [
        Trace(
            where=where,
            question_id=label(data.get(fields.question)),
            prompt=_prompt(data, where, fields),
            text=_text(data, where, fields),
            model=label(data.get(fields.model)),
            sample=_number(data, where, fields.sample),
            round=_number(data, where, fields.round) or 0,
            complete=_complete(data, where, fields),
            category=label(data.get(fields.category)) or "all",
            temperature=temperature(data.get(fields.temperature), where),
            plain_text=label(data.get(fields.text)),
        )
    ]


def _number(data: dict[str, Any], where: str, name: str) -> int | None:
    return whole(data[name], where, name) if data.get(name) is not None else None


def _complete(data: dict[str, Any], where: str, fields: Fields) -> bool:
    complete = data.get(fields.complete, True)
    if isinstance(complete, bool):
        return complete
    raise UserError(f"{where}: '{fields.complete}' must be true or false, not {complete!r}")


def _prompt(data: dict[str, Any], where: str, fields: Fields) -> Any:
    if fields.prompt_ids in data:
        return integers(data[fields.prompt_ids], where, fields.prompt_ids)
    if fields.messages in data:
        return messages(data[fields.messages], where, fields.messages)
    prompt = data.get(fields.prompt, "")
    if isinstance(prompt, list):
        return messages(prompt, where, fields.prompt)
    return text(prompt, where, fields.prompt)


def _text(data: dict[str, Any], where: str, fields: Fields) -> str | list[int]:
    if fields.ids in data:
        return integers(data[fields.ids], where, fields.ids)
    if fields.text not in data:
        raise UserError(f"{where}: neither '{fields.text}' nor '{fields.ids}' is there")
    return text(data[fields.text], where, fields.text)
