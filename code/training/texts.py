"""Text written by the target itself: what heads and draft models learn from, and its accuracy.

Uses transformers' own batched sampling, so training does not depend on the engine it makes models
for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import (
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from evaluation.tasks.boxed import last_boxed
from training.corpus import Text, prompt_ids
from training.problems import draw
from training.trace import reasoning

BATCH = 64
"""Texts written at once."""
PROGRESS_EVERY = 256
ANSWER_TOKENS = 768
"""Longest answer when accuracy is measured."""


def prompts(seed: int, count: int, split: str = "train") -> list[str]:
    """User messages of reasoning documents: three quarters first rounds, the rest second."""
    return [reasoning(Random(f"{seed}/{split}/prompt/{i}"), split).user for i in range(count)]


@torch.inference_mode()
def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    users: list[str],
    temperature: float,
    max_new_tokens: int,
    seed: int,
    batch: int = BATCH,
    on_tokens: Callable[[int], object] | None = None,
) -> Iterator[Text]:
    """The model's answer to every message, sampled at `temperature` (0: greedy).

    `on_tokens` is called with the number of tokens of every step, answers that have ended counted.
    """
    torch.manual_seed(seed)
    ends = end_ids(model, tokenizer)
    for begin in range(0, len(users), batch):
        rows = [prompt_ids(tokenizer, message) for message in users[begin : begin + batch]]
        outputs = _continued(model, tokenizer, rows, temperature, max_new_tokens, on_tokens)
        for row, output in zip(rows, outputs):
            yield Text(row, _up_to_end(output, ends))


class _Counting(StoppingCriteria):
    """Stops nothing: it is told of every step."""

    def __init__(self, on_tokens: Callable[[int], object]) -> None:
        self._on_tokens = on_tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._on_tokens(len(input_ids))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer."""
    assert model.generation_config is not None
    ends = model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}


def _up_to_end(output: list[int], ends: set[int]) -> list[int]:
    """The tokens up to the first end, which is included."""
    for position, token in enumerate(output):
        if token in ends:
            return output[: position + 1]
    return output


def _continued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[list[int]],
    temperature: float,
    max_new_tokens: int,
    on_tokens: Callable[[int], object] | None,
) -> list[list[int]]:
    """What the model writes behind every row; rows are padded on the left."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    width = max(map(len, rows))
    padded = [[pad] * (width - len(row)) + row for row in rows]
    attended = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    assert isinstance(model, GenerationMixin)
    outputs = model.generate(
        torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(attended, device=model.device),
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        stopping_criteria=StoppingCriteriaList([_Counting(on_tokens)] if on_tokens else []),
        **sampling,
    )
    assert isinstance(outputs, torch.Tensor)
    return outputs[:, width:].tolist()


def save(texts: Iterable[Text], file: Path) -> None:
    """One JSON line a text, appended as they come and moved into place when complete."""
    part = file.with_suffix(".part")
    with open(part, "w", encoding="utf-8") as out:
        for count, text in enumerate(texts, 1):
            out.write(json.dumps([text.prompt, text.output]) + "\n")
            if count % PROGRESS_EVERY == 0:
                print(f"{file.name}: {count} texts", flush=True)
    part.replace(file)


def read(file: Path) -> list[Text]:
    """What `save` wrote."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Text(*json.loads(line)) for line in lines]


@dataclass(frozen=True)
class Score:
    """Problems asked, and how many of them were answered right."""

    right: int = 0
    asked: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.right + other.right, self.asked + other.asked)


def accuracy_by_kind(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    temperature: float,
    split: str = "validation",
) -> dict[str, Score]:
    """The score in each kind of problem, on `count` problems of a split."""
    problems = [draw(Random(f"accuracy/{split}/{i}"), split)[1] for i in range(count)]
    questions = [problem.question for problem in problems]
    scores: dict[str, Score] = {}
    texts = write(model, tokenizer, questions, temperature, ANSWER_TOKENS, seed=0)
    for problem, text in zip(problems, texts):
        answer = last_boxed(str(tokenizer.decode(text.output)))
        score = Score(right=int(answer == problem.answer), asked=1)
        scores[problem.kind] = scores.get(problem.kind, Score()) + score
    return scores
