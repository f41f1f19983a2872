"""JSON lines of one generation each, their fields named by flags."""

from __future__ import annotations

from typing import Any

from evaluation.replaying.formats import ReadOptions, integers, messages, text, whole
from evaluation.replaying.trace import Fields, Trace
from model.errors import UserError

RANK = 3


def matches(data: dict[str, Any], fields: Fields) -> bool:
    return fields.text in data or fields.ids in data


def read(data: dict[str, Any], where: str, options: ReadOptions) -> list[Trace]:
    fields = options.fields
    temperature = data.get(fields.temperature)
    return [
        Trace(
            where=where,
            question_id=str(data.get(fields.question, "")),
            prompt=_prompt(data, where, fields),
            text=_text(data, where, fields),
            model=str(data.get(fields.model, "")),
            sample=_number(data, where, fields.sample),
            round=_number(data, where, fields.round) or 0,
            complete=bool(data.get(fields.complete, True)),
            category=str(data.get(fields.category, "all")),
            temperature=temperature if isinstance(temperature, (int, float)) else None,
            plain_text=str(data.get(fields.text, "")),
        )
    ]


def _number(data: dict[str, Any], where: str, name: str) -> int | None:
    return whole(data[name], where, name) if name in data else None


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
