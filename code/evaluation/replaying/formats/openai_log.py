"""Logs in OpenAI's terms: `messages` and `choices`, in one object or as request and response."""

from __future__ import annotations

from typing import Any

from evaluation.replaying.formats import (
    ReadOptions,
    label,
    messages,
    temperature,
    text,
    thought_and_answer,
    whole,
)
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
    asked, prompt = _found(data, "messages"), _found(data, "prompt")
    if asked is not None:
        prompt = messages(asked, where, "messages")
    elif prompt is None:
        raise UserError(f"{where}: neither 'messages' nor 'prompt' is there")
    else:
        prompt = text(prompt, where, "prompt")
    fields = options.fields
    sample, round = data.get(fields.sample), data.get(fields.round)
    if sample is not None:
        sample = whole(sample, where, fields.sample)
    round = 0 if round is None else whole(round, where, fields.round)
    traces = []
    for choice in choices:
        if not isinstance(choice, dict):
            raise UserError(f"{where}: 'choices' must be a list of objects")
        traces.append(
            Trace(
                where=where,
                question_id=label(data.get(fields.question)),
                prompt=prompt,
                text=_text(choice, where),
                model=label(_found(data, "model")),
                sample=sample if len(choices) == 1 else None,
                round=round,
                complete=choice.get("finish_reason") in ENDED,
                category=label(data.get(fields.category)) or "all",
                temperature=temperature(_found(data, "temperature"), where),
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
    if message.get("tool_calls"):
        raise UserError(
            f"{where}: a message with tool calls does not say how the model wrote them;"
            " --skip-bad-lines leaves such lines out"
        )
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking is not None:
        thinking = text(thinking, where, "choices.message.reasoning_content")
    answer = message.get("content") or ""
    return thought_and_answer(thinking, text(answer, where, "choices.message.content"))
