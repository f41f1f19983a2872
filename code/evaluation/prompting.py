"""From messages to prompt ids, and from output ids to text: the tokenizer's own chat template, thinking on."""

from transformers import PreTrainedTokenizerBase

from evaluation.paradigms import Answer, Message
from model.targets import Family


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
    """The chat template's text, encoded without special tokens added (the template holds them)."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    return tokenizer.encode(text, add_special_tokens=False)


def answer_of(tokenizer: PreTrainedTokenizerBase, family: Family, output_ids: list[int],
              stop_ids: frozenset[int]) -> Answer:
    """Whole text, and the final part: what follows the last end of thinking, or all of it in a family without one."""
    ids = output_ids[:-1] if output_ids and output_ids[-1] in stop_ids else output_ids
    text = tokenizer.decode(ids, skip_special_tokens=False)
    end = family.end_think_id(tokenizer)
    if end is None:
        return Answer(text, text.strip())
    if end not in ids:
        return Answer(text, None)
    last = len(ids) - 1 - ids[::-1].index(end)
    return Answer(text, tokenizer.decode(ids[last + 1:], skip_special_tokens=True).strip())
