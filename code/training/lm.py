"""Train a causal language model on the documents: the recipe of the target and of the draft model.

Muon for the matrices inside the layers, AdamW for embeddings and vectors; warm-up, constant rate,
linear decay. The state is saved every `save_every` steps, so a stopped run goes on where it was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from training.corpus import NOTHING_TO_LEARN, Batch, batches
from training.networks import move

HEAD_DIM = 64
VALIDATION_BATCHES, VALIDATION_BATCH_TOKENS = 4, 8192
PROGRESS_EVERY = 10
GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class LMRecipe:
    """Everything a language model of the family is a function of (beside the tokenizer)."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    steps: int
    decay_steps: int
    learning_rate: float = 3e-3
    batch_tokens: int = 6144
    warmup: int = 50
    seed: int = 1
    save_every: int = 100


@dataclass
class Pace:
    """How fast a training goes."""

    tokens: int = 0
    begun: float = field(default_factory=time.time)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / (time.time() - self.begun)


def build(recipe: LMRecipe, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """A freshly initialised Qwen3 of the recipe's shape, its embeddings tied."""
    torch.manual_seed(recipe.seed)
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.feed_forward,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "head_dim": HEAD_DIM,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "rope_theta": 10_000.0,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return Qwen3ForCausalLM(Qwen3Config(**config))


def optimisers(model: torch.nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for two-dimensional weights inside layers, AdamW for the rest."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_inner = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if is_inner else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate_factor(step: int, steps: int, decay_steps: int, warmup: int) -> float:
    """Linear warm-up, constant, linear decay to zero over the last `decay_steps`."""
    return min(1.0, (step + 1) / warmup, (steps - step) / decay_steps)


def loss_of(model: Qwen3ForCausalLM, batch: Batch, device: torch.device) -> torch.Tensor:
    """Mean cross-entropy of the next token where a label says so."""
    ids, labels = batch.ids.to(device), batch.labels.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        keep = wanted != NOTHING_TO_LEARN
        logits = model.lm_head(hidden[keep])
    return torch.nn.functional.cross_entropy(logits.float(), wanted[keep])


@torch.no_grad()
def validation_loss(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> float:
    """Mean loss over a few batches of the validation split (always the same ones)."""
    stream = batches(tokenizer, seed=0, split="validation", batch_tokens=VALIDATION_BATCH_TOKENS)
    losses = [loss_of(model, next(stream), device).item() for _ in range(VALIDATION_BATCHES)]
    return sum(losses) / VALIDATION_BATCHES


def train_lm(
    recipe: LMRecipe,
    tokenizer: PreTrainedTokenizerBase,
    work: Path,
    device: torch.device,
    final: list[Batch] | None = None,
) -> Qwen3ForCausalLM:
    """Train, or go on training, and return the model; the state lives in `work`/state.pt.

    The last steps learn from the batches `final`, one each, instead of the documents (a draft
    model: the target's text).
    """
    state = work / "state.pt"
    model = build(recipe, tokenizer)
    move(model, device)
    optims = optimisers(model, recipe.learning_rate)
    first = load_state(state, model, optims, device)
    if first >= recipe.steps:
        return model
    final = final or []
    stream = batches(tokenizer, recipe.seed, "train", recipe.batch_tokens)
    for _ in range(min(first, recipe.steps - len(final))):
        next(stream)
    pace = Pace()
    for step in range(first, recipe.steps):
        factor = rate_factor(step, recipe.steps, recipe.decay_steps, recipe.warmup)
        set_rate(optims, recipe.learning_rate * factor)
        left = recipe.steps - step
        batch = final[len(final) - left] if left <= len(final) else next(stream)
        loss = loss_of(model, batch, device)
        loss.backward()
        update(model, optims, GRADIENT_NORM)
        pace.tokens += batch.tokens
        done = step + 1
        if done % PROGRESS_EVERY == 0:
            print(
                f"step {done}/{recipe.steps}  loss {loss.item():.3f}  {pace.rate:.0f} tokens/s",
                flush=True,
            )
        if done % recipe.save_every == 0 or done == recipe.steps:
            save_state(state, model, optims, done)
            validation = validation_loss(model, tokenizer, device)
            print(f"step {done}: validation loss {validation:.4f}", flush=True)
    return model


def set_rate(optims: list[torch.optim.Optimizer], rate: float) -> None:
    """The learning rate of this step."""
    for optim in optims:
        for group in optim.param_groups:
            group["lr"] = rate


def update(model: torch.nn.Module, optims: list[torch.optim.Optimizer], clip: float) -> None:
    """One step on gradients clipped to the norm `clip`, which are then dropped."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optim in optims:
        optim.step()
        optim.zero_grad()


def load_state(
    file: Path, model: torch.nn.Module, optims: list[torch.optim.Optimizer], device: torch.device
) -> int:
    """Restore a stopped run; returns the step it had reached, 0 where there is none."""
    if not file.exists():
        return 0
    state = torch.load(file, map_location=device)
    model.load_state_dict(state["model"])
    for optim, saved in zip(optims, state["optims"]):
        optim.load_state_dict(saved)
    return state["step"]


def save_state(
    file: Path, model: torch.nn.Module, optims: list[torch.optim.Optimizer], step: int
) -> None:
    """Write weights, optimiser state and step, replacing the old file in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    state = {
        "model": model.state_dict(),
        "optims": [optim.state_dict() for optim in optims],
        "step": step,
    }
    torch.save(state, part)
    part.replace(file)
