"""What a target writes for a head to learn from: saved as it comes, so that a stopped run goes on.

Every group of prompts has a seed of its own, so the texts do not depend on where a run was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.errors import UserError
from training.corpus import Text
from training.texts import write

GROUP = 32
"""Texts written at once."""


@dataclass(frozen=True)
class Writing:
    """What the texts are a function of, beside the target."""

    prompts: list[str]
    temperature: float
    max_new_tokens: int
    tokens: int
    """Written by the target, in all."""
    seed: int


def written_texts(
    writing: Writing, target: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path
) -> list[Text]:
    """The target's answers until it has written as many tokens as are asked for; those that `file`
    holds are not written again."""
    texts = read_texts(file, len(writing.prompts))
    tokens = sum(len(text.output) for text in texts)
    if texts:
        print(f"{file}: {len(texts)} texts of {tokens} tokens were written before", flush=True)
    with _bar(min(tokens, writing.tokens), writing.tokens) as bar, open(file, "ab") as out:
        for group in _groups_left(writing, len(texts)):
            if tokens >= writing.tokens:
                break
            new = list(_write(writing, group, target, tokenizer, bar))
            out.write("".join(json.dumps([t.prompt, t.output]) + "\n" for t in new).encode())
            out.flush()
            texts += new
            tokens = sum(len(text.output) for text in texts)
            bar.n = min(tokens, writing.tokens)  # what ended early was counted to the end
            bar.refresh()
    print(f"the target wrote {len(texts)} texts, {tokens} tokens", flush=True)
    return texts


def _groups_left(writing: Writing, done: int) -> Iterator[int]:
    """Numbers of the groups that are not written; a text is written a prompt."""
    return iter(range(done // GROUP, -(-len(writing.prompts) // GROUP)))


def _write(
    writing: Writing,
    group: int,
    target: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    bar: tqdm,
) -> Iterator[Text]:
    prompts = writing.prompts[group * GROUP : (group + 1) * GROUP]
    return write(
        target,
        tokenizer,
        prompts,
        writing.temperature,
        writing.max_new_tokens,
        seed=writing.seed + group,
        on_tokens=bar.update,
    )


def read_texts(file: Path, prompts: int) -> list[Text]:
    """Whole groups that were written before; a group that a kill left half-written is dropped."""
    if not file.exists():
        return []
    texts = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
        try:
            texts.append(Text(*json.loads(line)))
        except (ValueError, TypeError):
            raise UserError(
                f"{file}, line {number}: not a text this program wrote; delete the file to have"
                " them written anew"
            ) from None
    whole = len(texts) if len(texts) == prompts else len(texts) // GROUP * GROUP
    lines = [json.dumps([text.prompt, text.output]) + "\n" for text in texts[:whole]]
    file.write_bytes("".join(lines).encode())
    return texts[:whole]


def _bar(done: int, total: int) -> tqdm:
    return tqdm(initial=done, total=total, desc="the target writes", unit="tok", unit_scale=True)
