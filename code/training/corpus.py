"""Training documents as token batches: encoded, sorted by length within a chunk, padded, shuffled.

The order is seeded.

Shapes: B texts, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from transformers import PreTrainedTokenizerBase

from evaluation.paradigms import user
from training.trace import Document, document

CHUNK = 256
"""Documents sorted together: padding stays near 2 % and the order stays random."""
NOTHING_TO_LEARN = -100
"""The label where no token is to be predicted: PyTorch's own mark."""


@dataclass(frozen=True)
class Text:
    """A prompt and what follows it, the end marker included, as token ids."""

    prompt: list[int]
    output: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.output)


@dataclass(frozen=True)
class Batch:
    """ids [B, T], padded on the right with 0; labels [B, T], the ids where they are to be learnt.

    Prompt and padding are not.
    """

    ids: torch.Tensor
    labels: torch.Tensor

    @property
    def tokens(self) -> int:
        return self.ids.numel()


def prompt_ids(tokenizer: PreTrainedTokenizerBase, message: str) -> list[int]:
    """What the user says, through the chat template."""
    text = tokenizer.apply_chat_template(
        [user(message)], tokenize=False, add_generation_prompt=True
    )
    return tokenizer.encode(text, add_special_tokens=False)


def encode(tokenizer: PreTrainedTokenizerBase, example: Document) -> Text:
    """A document through the chat template."""
    output = tokenizer.encode(example.assistant, add_special_tokens=False)
    return Text(prompt_ids(tokenizer, example.user), [*output, tokenizer.eos_token_id])


def pad(texts: list[Text]) -> Batch:
    """One batch of all texts."""
    size = (len(texts), max(len(text) for text in texts))
    ids = torch.zeros(size, dtype=torch.long)
    labels = torch.full(size, NOTHING_TO_LEARN)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text.prompt + text.output)
        labels[row, len(text.prompt) : len(text)] = torch.tensor(text.output)
    return Batch(ids, labels)


def pack(texts: list[Text], batch_tokens: int, rng: Random) -> list[Batch]:
    """Batches of at most `batch_tokens` padded tokens, of texts of like length, in random order."""
    groups: list[list[Text]] = [[]]
    for text in sorted(texts, key=len):
        padded_tokens = (len(groups[-1]) + 1) * len(text)  # it is the longest so far
        if groups[-1] and padded_tokens > batch_tokens:
            groups.append([])
        groups[-1].append(text)
    rng.shuffle(groups)
    return [pad(group) for group in groups]


def batches(
    tokenizer: PreTrainedTokenizerBase, seed: int, split: str, batch_tokens: int
) -> Iterator[Batch]:
    """An endless, seeded stream of batches of `split`."""
    start = 0
    while True:
        chunk = range(start, start + CHUNK)
        texts = [encode(tokenizer, document(seed, index, split)) for index in chunk]
        yield from pack(texts, batch_tokens, Random(f"{seed}/{split}/{start}/order"))
        start += CHUNK
