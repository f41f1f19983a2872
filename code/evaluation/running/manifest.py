"""Making a run's manifest: its specification, versions, device, commit, fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from evaluation.records.manifest import SCHEMA, Manifest
from evaluation.running.runner import Runner
from evaluation.tasks import Question, questions_hash
from model.engine.backends.cuda_graph import CudaGraph
from model.engine.device.tree_attention import uses_kernel
from model.engine.model import Model

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "triton")


def build(runner: Runner, argv: list[str], questions: list[Question]) -> Manifest:
    """What decides the records, and where they came from."""
    model, loaded = runner.loaded.model, runner.loaded
    data = {
        "schema": SCHEMA,
        "spec": runner.spec.as_json(),
        "family": loaded.family.name,
        "fingerprints": {"questions": questions_hash(questions), "model": fingerprint(model)},
        "questions": len(questions),
        "model_folder": model.path,
        "end_think": loaded.family.end_think,
        "end_think_id": loaded.family.end_think_id(loaded.tokenizer),
        "stop_ids": sorted(loaded.stop_ids),
        "vocab_size": model.vocab_size,
        "arguments": argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_state(),
        "versions": versions(),
        "device": device_name(model),
        "threads": torch.get_num_threads(),
        "tuned": {"costs": runner.tuned.costs},
        "held_memory": runner.held,
        "attention": attention(model),
    }
    # as it will be read back: tuples become lists
    return Manifest(json.loads(json.dumps(data)))


def attention(model: Model) -> str:
    """Which attention decoding steps run."""
    plain = "packed rows over scaled_dot_product_attention"
    if not isinstance(model.backend, CudaGraph):
        return plain
    is_kernel = uses_kernel(model.device, model.shape.head_dim)
    others = str(model.backend.attention)
    return ("split prefix, Triton" if is_kernel else plain) + (f"; {others}" if others else "")


def fingerprint(model: Model) -> str:
    """Of the model's shapes and a sample of its weights: another checkpoint there is noticed."""
    digest = hashlib.sha256()
    for name, weight in model.network.state_dict().items():
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def git_state() -> dict[str, Any]:
    """Commit and whether the tree differs from it; empty outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", "."))}


def _git(*words: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages results depend on."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def device_name(model: Model) -> str:
    """Name of the accelerator, or of the processor."""
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{_processor()} ({platform.system()})"


def _processor() -> str:
    """The CPU's model where Linux tells, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
