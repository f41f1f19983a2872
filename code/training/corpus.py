"""Training documents as token batches: encoded, sorted by length within a chunk, padded, in a seeded order."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from training.trace import Document, document

CHUNK = 256  # documents sorted together: padding stays near 2 % and the order stays random


@dataclass(frozen=True)
class Batch:
    """ids [B, T] right-padded with 0; labels [B, T] hold -100 where nothing is to be learnt (prompt, padding)."""

    ids: torch.Tensor
    labels: torch.Tensor

    @property
    def tokens(self) -> int:
        return self.ids.numel()


def encode(tokenizer: PreTrainedTokenizerFast, doc: Document) -> tuple[list[int], list[int]]:
    """(prompt ids, continuation ids with the end marker) through the chat template."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": doc.user}], tokenize=False,
                                         add_generation_prompt=True)
    continuation = [*tokenizer.encode(doc.assistant, add_special_tokens=False), tokenizer.eos_token_id]
    return tokenizer.encode(text, add_special_tokens=False), continuation


def pad(rows: list[tuple[list[int], list[int]]]) -> Batch:
    """Stack (prompt, continuation) pairs into one right-padded batch."""
    width = max(len(p) + len(c) for p, c in rows)
    ids, labels = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
    for i, (prompt, continuation) in enumerate(rows):
        n = len(prompt) + len(continuation)
        ids[i, :n] = torch.tensor(prompt + continuation)
        labels[i, len(prompt):n] = torch.tensor(continuation)
    return Batch(ids, labels)


def pack(rows: list[tuple[list[int], list[int]]], batch_tokens: int, rng: Random) -> list[Batch]:
    """Cut rows, sorted by length, into batches of at most `batch_tokens` padded tokens, in a random order."""
    rows = sorted(rows, key=lambda r: len(r[0]) + len(r[1]))
    groups: list[list[tuple[list[int], list[int]]]] = [[]]
    for row in rows:
        if groups[-1] and (len(groups[-1]) + 1) * (len(row[0]) + len(row[1])) > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    return [pad(group) for group in groups]


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, split: str, batch_tokens: int) -> Iterator[Batch]:
    """An endless, seeded stream of batches of `split`."""
    start = 0
    while True:
        rows = [encode(tokenizer, document(seed, i, split)) for i in range(start, start + CHUNK)]
        yield from pack(rows, batch_tokens, Random(f"{seed}/{split}/{start}/order"))
        start += CHUNK
