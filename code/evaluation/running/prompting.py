"""From messages to prompt ids, and from output ids to text.

The tokenizer's own chat template is used, thinking on.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from evaluation.paradigms import Answer, Message
from model.families import Family


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
    """The chat template's text, encoded without special tokens added (the template has them)."""
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    return tokenizer.encode(text, add_special_tokens=False)


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
