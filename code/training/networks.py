"""The target as transformers runs it: training does not depend on the engine."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel


def load_target(folder: str | Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The causal language model in `folder`, in evaluation mode."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    move(network, device)
    return network.eval().requires_grad_(False)


def move(module: torch.nn.Module, device: torch.device) -> None:
    """In place; transformers declares `to` of its models in a way that mypy cannot follow."""
    module.to(device)
