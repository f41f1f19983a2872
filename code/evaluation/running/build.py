"""From a specification to a run: load model and drafter, resolve what is 'auto'.

Below both the command line and the pool's workers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from evaluation import paradigms
from evaluation.running.control import Control
from evaluation.running.runner import Runner, most_together, text_positions
from evaluation.running.spec import ModelSpec, RunSpec
from evaluation.running.tuning import Tuned, tune
from evaluation.tasks import Question
from model import checkpoint, methods
from model.checkpoint import Loaded
from model.contract import NO_CAP
from model.engine import backends
from model.engine.model import Model
from model.errors import UserError
from model.index.compiled import IS_COMPILED, SLOW_NOTE
from model.memory import CacheSize

UNTUNED = Tuned(threads=0, max_nodes=NO_CAP)
PROMPT_POSITIONS = 1024
"""Tokens of a prompt, for the estimate of memory before anything is loaded."""


def checked_device(name: str) -> torch.device:
    """A GPU with its number; raises UserError for a device that is not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device is cpu, cuda or cuda:N, not '{name}'") from None
    if device.type != "cuda":
        return device
    gpus, index = torch.cuda.device_count(), device.index or 0
    if index >= max(1, gpus):
        raise UserError(f"--device {name}: PyTorch sees {gpus} GPU(s)")
    if not torch.cuda.is_available():
        raise UserError(
            "--device cuda: PyTorch finds no GPU; use --device cpu, or install a CUDA build of"
            " torch"
        )
    return torch.device("cuda", index)


def resolved_model(spec: ModelSpec) -> ModelSpec:
    """The device asked for or found, and the number type that suits it.

    Raises UserError for a device that is not there.
    """
    device = spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
    is_gpu = checked_device(device).type == "cuda"
    dtype = spec.dtype
    if dtype == "auto":
        dtype = "bfloat16" if is_gpu else "float32"
    if spec.threads:
        torch.set_num_threads(spec.threads)
    return replace(spec, device=device, dtype=dtype)


def load_alone(model: ModelSpec) -> Loaded:
    """A target whose specification is resolved, without a run around it."""
    return checkpoint.load(
        model.path,
        model.dtype,
        model.device or "cpu",
        model.chat_template,
        model.device_map,
        engine=model.engine,
    )


def build_runs(specs: Sequence[RunSpec], questions: list[Question]) -> list[Runner]:
    """Load the target once and every drafter, check the questions, record what is recorded ahead.

    The specifications differ in their methods and records files alone. Raises UserError for
    whatever does not fit.
    """
    model = resolved_model(specs[0].model)
    loaded = load_target([replace(spec, model=model) for spec in specs])
    if specs[0].record_topk > loaded.model.vocab_size:
        raise UserError(
            f"--record-topk {specs[0].record_topk}: the vocabulary has"
            f" {loaded.model.vocab_size} tokens"
        )
    control = Control(loaded.model)
    runners, held = [], []
    for spec in specs:
        before = held_memory(loaded.model.device)
        drafter = methods.build(spec.method.name, loaded.model, spec.method.configs)
        if spec.method.memory_scope:
            drafter.remember(spec.method.memory_scope)
        method = replace(spec.method, memory_scope=drafter.scope)
        resolved = replace(spec, model=model, method=method)
        paradigm = paradigms.load(spec.paradigm.name)
        runners.append(Runner(resolved, loaded, drafter, paradigm, control, UNTUNED))
        held.append(held_memory(loaded.model.device) - before)
    runners[0].check(questions)
    longest = runners[0].longest_prompt(questions)
    # one cache for all, made once: a larger one would mean new graphs
    loaded.model.reserve(max(runner.rows(longest) for runner in runners), runners[0].slots)
    tuned = tune(loaded.model, specs, runners[0].slots)
    say_engine(loaded.model, specs[0].model.engine)
    runners = [_tuned(runner, tuned) for runner in runners]
    for i, runner in enumerate(runners):
        before = held_memory(loaded.model.device)
        runner.prepare(longest)
        held[i] += held_memory(loaded.model.device) - before
    control.step_time()
    # the engine in use is known once its graphs are made
    in_use = replace(model, engine=loaded.model.engine)
    total = sum(held)
    ready = []
    for runner, own in zip(runners, held, strict=True):
        spec = replace(runner.spec, model=in_use)
        ready.append(replace(runner, spec=spec, held=own, held_by_others=total - own))
    if total and len(runners) > 1:
        print(f"drafters hold {total / 1e9:.1f} GB of the GPU between their turns", file=sys.stderr)
    return ready


def _tuned(runner: Runner, tuned: Tuned) -> Runner:
    asked = runner.spec.method.max_nodes
    method = replace(runner.spec.method, max_nodes=asked or tuned.max_nodes)
    return replace(runner, spec=replace(runner.spec, method=method), tuned=tuned)


def say_engine(model: Model, asked: str) -> None:
    """Say why model or drafters run slower than the machine could, where nobody asked for it."""
    if not IS_COMPILED:
        print(f"note: {SLOW_NOTE}", file=sys.stderr)
    reason = backends.why_not_faster(model.shape)
    if asked == "auto" and reason:
        kind = model.config.model_type
        print(
            f"note: '{kind}' models run by the engine {model.engine}; no faster one: {reason}",
            file=sys.stderr,
        )


def load_target(specs: Sequence[RunSpec]) -> Loaded:
    """The target of specifications whose model is resolved, beside all of their drafters."""
    spec = specs[0]
    model = spec.model
    assert model.device is not None
    device_map = model.device_map
    if spec.workers.gpus_per_model > 1 and model.device.startswith("cuda"):
        device_map = device_map or "auto"
    size = CacheSize(
        checkpoint.DTYPES[model.dtype],
        positions=text_positions(spec.generation.max_new_tokens) + PROMPT_POSITIONS,
        sequences=most_together(spec, paradigms.load(spec.paradigm.name)),
    )
    beside = 0
    for other in specs:
        beside += methods.held_bytes(other.method.name, other.method.configs, size)
    return checkpoint.load(
        model.path,
        dtype=model.dtype,
        device=model.device,
        chat_template=model.chat_template,
        device_map=device_map,
        positions=size.positions,
        engine=model.engine,
        sequences=size.sequences,
        beside=beside,
    )


def held_memory(device: torch.device) -> int:
    """Bytes allocated on the accelerator; 0 on a CPU, where nobody counts them."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
