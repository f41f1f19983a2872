"""From messages to prompt ids, and from output ids to text.

The tokenizer's own chat template is used, thinking on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluation.paradigms import Answer, Message
from model.families import Family

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CUT = "\ue000"
"""A private character that marks where a special token's text is cut in two."""


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], allow_special: bool = False
) -> list[int]:
    """The chat template's text, encoded without special tokens added (the template has them).

    Messages are data: the text of a special token in them is encoded as text, unless
    `allow_special`.
    """
    found = [] if allow_special else special_texts(tokenizer, messages)
    if found:
        messages = [{**message, "content": _cut(message["content"], found)} for message in messages]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    assert isinstance(text, str)
    if not found:
        return tokenizer.encode(text, add_special_tokens=False)
    ids: list[int] = []
    for piece in text.split(CUT):
        ids += tokenizer.encode(piece, add_special_tokens=False)
    return ids


def special_texts(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[str]:
    """The special tokens whose text stands in these messages, the longest first."""
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    found = []
    for token in known:
        if len(token) > 1 and any(token in message["content"] for message in messages):
            found.append(token)
    return sorted(found, key=lambda token: (-len(token), token))


def _cut(content: str, tokens: list[str]) -> str:
    """The content with every special token's text cut after its first character."""
    for token in tokens:
        content = content.replace(token, token[0] + CUT + token[1:])
    return content


def answer_of(
    tokenizer: PreTrainedTokenizerBase,
    family: Family,
    output_ids: list[int],
    stop_ids: frozenset[int],
) -> Answer:
    """The whole text, and the final part.

    That is what follows the last end of thinking, or all of it in a family without thinking.
    """
    is_stopped = bool(output_ids) and output_ids[-1] in stop_ids
    ids = output_ids[:-1] if is_stopped else output_ids
    text = _decoded(tokenizer, ids, skip_special_tokens=False)
    end = family.end_think_id(tokenizer)
    if end is None:
        return Answer(text, text.strip())
    if end not in ids:
        return Answer(text, None)
    last = len(ids) - 1 - ids[::-1].index(end)
    final = _decoded(tokenizer, ids[last + 1 :], skip_special_tokens=True)
    return Answer(text, final.strip())


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int], skip_special_tokens: bool) -> str:
    """One text: transformers' own type allows several."""
    text = tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
    assert isinstance(text, str)
    return text
