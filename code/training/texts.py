"""Text written by the target itself, in batches: what heads and draft models learn from, and its accuracy per kind.

Uses transformers' own batched sampling, so training does not depend on the engine it makes models for.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.problems import draw
from training.trace import reasoning


def prompts(seed: int, count: int, split: str = "train") -> list[str]:
    """User messages of reasoning documents: three quarters first rounds, one quarter second rounds."""
    return [reasoning(Random(f"{seed}/{split}/prompt/{i}"), split).user for i in range(count)]


@torch.inference_mode()
def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, users: list[str], temperature: float,
          max_new_tokens: int, seed: int, batch: int = 64) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt ids, output ids with the end marker) for every message, sampled at `temperature` (0: greedy)."""
    torch.manual_seed(seed)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    for begin in range(0, len(users), batch):
        rows = [tokenizer.encode(_render(tokenizer, u), add_special_tokens=False) for u in users[begin:begin + batch]]
        width = max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows], device=model.device)
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=model.device)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {
            "do_sample": False}
        outputs = model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad, **sampling)
        for row, output in zip(rows, outputs[:, width:].tolist()):
            stop = next((i + 1 for i, t in enumerate(output) if t in ends), len(output))
            yield row, output[:stop]


def _render(tokenizer: PreTrainedTokenizerBase, user: str) -> str:
    return tokenizer.apply_chat_template([{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True)


def save(rows: Iterator[tuple[list[int], list[int]]], file: Path, progress_every: int = 256) -> None:
    """One JSON line a text, appended as they come and moved into place when complete."""
    part = file.with_suffix(".part")
    with open(part, "w", encoding="utf-8") as out:
        for i, (prompt, output) in enumerate(rows, 1):
            out.write(json.dumps([prompt, output]) + "\n")
            if i % progress_every == 0:
                print(f"{file.name}: {i} texts", flush=True)
    part.replace(file)


def read(file: Path) -> list[tuple[list[int], list[int]]]:
    """What `save` wrote."""
    return [tuple(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]  # type: ignore[misc]


def accuracy_by_kind(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, temperature: float,
                     split: str = "validation") -> dict[str, tuple[int, int]]:
    """(right, asked) per kind of problem on `count` problems of a split."""
    from evaluation.boxed import last_boxed

    problems = [draw(Random(f"accuracy/{split}/{i}"), split)[1] for i in range(count)]
    found: dict[str, tuple[int, int]] = {}
    outputs = write(model, tokenizer, [p.question for p in problems], temperature, 768, seed=0)
    for problem, (_, output) in zip(problems, outputs):
        right, asked = found.get(problem.kind, (0, 0))
        answer = last_boxed(tokenizer.decode(output))
        found[problem.kind] = (right + (answer == problem.answer), asked + 1)
    return found
