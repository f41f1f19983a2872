"""A recorded generation as it was read, whatever wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
LONGEST = 1_000_000
"""Tokens of a trace that are taken."""


@dataclass(frozen=True)
class Trace:
    """One generation. Prompt and text are ids, or text for a tokenizer."""

    where: str
    """File and line."""
    question_id: str
    """Empty: generations of one prompt are one question."""
    prompt: str | list[int] | list[Message]
    """Text as the model saw it, its ids, or chat messages."""
    text: str | list[int]
    model: str = ""
    sample: int | None = None
    """None: counted in the order of the file."""
    round: int = 0
    choice: int = 0
    complete: bool = True
    """False where it was cut at a limit."""
    category: str = "all"
    temperature: float | None = None
    seed: int = 0
    """Of its noise, where it is ours."""
    plain_text: str = ""
    """The text for people, where `text` are ids."""
    is_ours: bool = False
    """A record of this benchmark: its text leaves the stop token out, its ids need no check."""
    forced_tokens: int = 0
    max_new_tokens: int | None = None
    """The budget it was made with; None where that is not known."""
    reference_answer: str | None = None
    final_answer: str | None = None
    target_topk: str | None = None


@dataclass(frozen=True)
class Fields:
    """What the fields of JSON lines are called."""

    prompt: str = "prompt"
    messages: str = "messages"
    prompt_ids: str = "prompt_ids"
    text: str = "text"
    ids: str = "token_ids"
    question: str = "question_id"
    sample: str = "sample"
    round: str = "round"
    complete: str = "complete"
    category: str = "source"
    model: str = "model"
    temperature: str = "temperature"


HELP = {
    "prompt": "the prompt's text, or chat messages",
    "messages": "chat messages",
    "prompt_ids": "the prompt's token ids",
    "text": "what the model wrote",
    "ids": "its token ids",
    "question": "what samples and rounds of one question share",
    "sample": "which sample",
    "round": "which round",
    "complete": "did the text reach its end?",
    "category": "what tables are split by",
    "model": "who wrote it",
    "temperature": "how it was sampled",
}
"""Of the flags that name fields."""
