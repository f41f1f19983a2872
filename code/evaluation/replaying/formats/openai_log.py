"""Logs in OpenAI's terms: `messages` and `choices`, in one object or as request and response."""

from __future__ import annotations

from typing import Any

from evaluation.replaying.formats import ReadOptions, messages, text, thought_and_answer
from evaluation.replaying.trace import Fields, Trace
from model.errors import UserError

RANK = 2
PLACES = ((), ("request",), ("response",), ("body",), ("request", "body"), ("response", "body"))
"""Where a log keeps what was asked and what came back."""
ENDED = ("stop", "tool_calls", "eos", None)
"""Finish reasons of texts that reached their end; None where the log does not tell."""


def matches(data: dict[str, Any], fields: Fields) -> bool:
    choices = _found(data, "choices")
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict)


def read(data: dict[str, Any], where: str, options: ReadOptions) -> list[Trace]:
    choices = _found(data, "choices")
    if not isinstance(choices, list):
        raise UserError(f"{where}: 'choices' is missing")
    asked = _found(data, "messages")
    prompt: Any
    if asked is None:
        prompt = text(_found(data, "prompt"), where, "messages")
    else:
        prompt = messages(asked, where, "messages")
    fields = options.fields
    traces = []
    for choice in choices:
        if not isinstance(choice, dict):
            raise UserError(f"{where}: 'choices' must be a list of objects")
        traces.append(
            Trace(
                where=where,
                question_id=str(data.get(fields.question, "")),
                prompt=prompt,
                text=_text(choice, where),
                model=str(_found(data, "model") or ""),
                sample=data.get(fields.sample) if len(choices) == 1 else None,
                round=data.get(fields.round, 0),
                complete=choice.get("finish_reason") in ENDED,
                category=str(data.get(fields.category, "all")),
                temperature=_found(data, "temperature"),
            )
        )
    return traces


def _found(data: dict[str, Any], name: str) -> Any:
    """The first of PLACES that holds the field."""
    for place in PLACES:
        here: Any = data
        for part in place:
            here = here.get(part) if isinstance(here, dict) else None
        if isinstance(here, dict) and name in here:
            return here[name]
    return None


def _text(choice: dict[str, Any], where: str) -> str:
    message = choice.get("message")
    if not isinstance(message, dict):
        return text(choice.get("text"), where, "choices.text")
    thinking = message.get("reasoning_content") or message.get("reasoning")
    answer = message.get("content") or ""
    return thought_and_answer(thinking, text(answer, where, "choices.message.content"))
