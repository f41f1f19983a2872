"""What a run's numbers depend on, written beside its records: settings, versions, device, commit, hashes."""

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

from evaluation.tasks import Question
from model.checkpoint import Loaded
from model.engine.target import Target
from model.engine.tree_attention import uses_kernel


def build(settings: dict[str, Any], argv: list[str], loaded: Loaded, questions: list[Question]) -> dict[str, Any]:
    """The manifest: `settings` decide the records and are compared on resume; the rest says where they came from."""
    target = loaded.target
    return {
        "schema": 1,
        "settings": {**settings, "questions_hash": questions_hash(questions), "model": fingerprint(target)},
        "questions": len(questions),
        "model_folder": target.path,
        "end_think": loaded.family.end_think,
        "end_think_id": loaded.family.end_think_id(loaded.tokenizer),
        "arguments": argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_state(),
        "versions": versions(),
        "device": device_of(target),
        "threads": torch.get_num_threads(),
        "attention": attention(target),
    }


def attention(target: Target) -> str:
    """Which attention decoding steps run."""
    if target.static and uses_kernel(target.device, target.cache.data.shape[-1]):
        return "split prefix, Triton"
    return "packed rows over scaled_dot_product_attention"


def questions_hash(questions: list[Question]) -> str:
    """Of ids, texts and answers, in order."""
    text = json.dumps([[q.id, q.category, q.text, q.answer] for q in questions], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(target: Target) -> str:
    """Of the model's shapes and a sample of its weights: another checkpoint under the same path is noticed."""
    digest = hashlib.sha256()
    for name, weight in target.model.state_dict().items():
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def git_state() -> dict[str, Any]:
    """Commit and whether the tree differs from it; empty outside a checkout."""
    here = Path(__file__).resolve().parent

    def ask(*words: str) -> str | None:
        try:
            return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    commit = ask("rev-parse", "HEAD")
    return {} if commit is None else {"commit": commit, "dirty": bool(ask("status", "--porcelain", "--", "."))}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages results depend on."""
    found = {"python": sys.version.split()[0]}
    for package in ("torch", "transformers", "tokenizers", "numpy", "triton"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def device_of(target: Target) -> str:
    """Name of the accelerator, or of the processor."""
    if target.device.type == "cuda":
        return torch.cuda.get_device_name(target.device)
    return f"{_processor()} ({platform.system()})"


def _processor() -> str:
    """The CPU's model where Linux tells, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
