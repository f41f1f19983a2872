"""From a specification to a run: load model and drafter, resolve what is 'auto'.

Below both the command line and the pool's workers.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from evaluation import paradigms, tasks
from evaluation.running.runner import Runner, text_positions
from evaluation.running.spec import ModelSpec, QuestionsSpec, RunSpec
from evaluation.tasks import Question
from model import checkpoint, methods
from model.errors import UserError

PROMPT_POSITIONS = 1024
"""Tokens of a prompt, for the estimate of memory before anything is loaded."""


def load_questions(spec: QuestionsSpec) -> list[Question]:
    """The questions asked for; raises UserError where there are none."""
    every = tasks.load(spec.bench, spec.question_file, spec.subset)[1]
    chosen = every[spec.begin : spec.end]
    if not chosen:
        raise UserError(
            f"--question-begin {spec.begin} --question-end {spec.end} leaves none of the"
            f" {len(every)} questions"
        )
    return chosen


def resolved_model(spec: ModelSpec) -> ModelSpec:
    """The device asked for or found, and the number type that suits it.

    Raises UserError for a device that is not there.
    """
    device = spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        index = torch.device(device).index or 0
    except RuntimeError:
        raise UserError(f"--device is cpu, cuda or cuda:N, not '{device}'") from None
    is_gpu = device.startswith("cuda")
    gpus = torch.cuda.device_count()
    if is_gpu and index >= max(1, gpus):
        raise UserError(f"--device {device}: PyTorch sees {gpus} GPU(s)")
    if is_gpu and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: PyTorch finds no GPU; use --device cpu, or install a CUDA build of"
            " torch"
        )
    dtype = spec.dtype
    if dtype == "auto":
        dtype = "bfloat16" if is_gpu else "float32"
    if spec.threads:
        torch.set_num_threads(spec.threads)
    return replace(spec, device=device, dtype=dtype)


def build_run(spec: RunSpec, questions: list[Question]) -> Runner:
    """Load model and drafter, check the questions, record what is recorded ahead.

    Raises UserError for whatever does not fit.
    """
    paradigm = paradigms.load(spec.paradigm.name)
    model = resolved_model(spec.model)
    assert model.device is not None
    device_map = model.device_map
    if spec.workers.gpus_per_model > 1 and model.device.startswith("cuda"):
        device_map = device_map or "auto"
    loaded = checkpoint.load(
        model.path,
        dtype=model.dtype,
        device=model.device,
        chat_template=model.chat_template,
        device_map=device_map,
        positions=text_positions(spec.generation.max_new_tokens) + PROMPT_POSITIONS,
        engine=model.engine,
    )
    drafter = methods.build(spec.method.name, loaded.model, spec.method.configs)
    if spec.method.memory_scope:
        drafter.remember(spec.method.memory_scope)
    method = replace(spec.method, memory_scope=drafter.scope)
    resolved = replace(spec, model=model, method=method)
    runner = Runner(resolved, loaded, drafter, paradigm)
    runner.check(questions)
    runner.prepare(questions)
    # the engine in use is known once its graphs are made
    in_use = replace(model, engine=loaded.model.engine)
    return replace(runner, spec=replace(resolved, model=in_use))
