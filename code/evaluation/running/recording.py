"""Records of generations: of finished ones, and of failed ones without numbers."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

from evaluation.paradigms import Answer, GenerationKey
from evaluation.records.manifest import scope_text
from evaluation.records.schema import UNNEEDED, Record, prompt_hash, run_lengths
from evaluation.running.keeping import Kept
from evaluation.running.meter import Usage
from evaluation.running.spec import RunSpec
from evaluation.tasks import Question
from model.contract import Request
from model.engine.sequence import Generation


def finished_record(
    spec: RunSpec,
    question: Question,
    request: Request,
    generation: Generation,
    answer: Answer,
    usage: Usage,
    control_time: float,
    kept: Kept | None = None,
) -> Record:
    """Of a generation that yielded text."""
    key = GenerationKey(request.choice, request.sample, request.round)
    times = generation.times
    return Record(
        **identity(spec, question, key),
        **_prompt(request),
        finish_reason=generation.finish_reason,
        output_ids=generation.output_ids,
        text=answer.text,
        new_tokens=len(generation.output_ids),
        forced_tokens=generation.forced_tokens,
        accept_lengths=generation.accept_lengths,
        draft_lengths=generation.draft_lengths,
        draft_source=run_lengths(generation.sources),
        prefill_time=times.prefill,
        wall_time=times.wall,
        draft_time=times.draft,
        verify_time=times.verify,
        accept_time=times.accept,
        other_time=times.other,
        peak_memory=usage.peak_memory,
        energy=usage.energy,
        cpu_time=usage.cpu_time,
        waited_time=usage.waited_time,
        control_time=control_time,
        other_load=usage.other_load,
        gpu_clock=usage.gpu_clock,
        gpu_throttle=usage.gpu_throttle,
        error="",
        final_answer=answer.final,
        target_topk=kept.target_topk if kept else None,
        drafts=kept.drafts if kept else None,
        batch=generation.batch,
        latency=generation.latency,
    )


def failed_record(
    spec: RunSpec,
    question: Question,
    key: GenerationKey,
    error: str,
    request: Request | None = None,
) -> Record:
    """Of a generation that yielded none; `request` is not known where its worker died."""
    return Record(
        **identity(spec, question, key),
        **_prompt(request),
        finish_reason="failed",
        output_ids=[],
        text="",
        new_tokens=None,
        forced_tokens=None,
        accept_lengths=[],
        draft_lengths=[],
        draft_source=[],
        prefill_time=None,
        wall_time=None,
        draft_time=None,
        verify_time=None,
        accept_time=None,
        other_time=None,
        peak_memory=None,
        energy=None,
        error=error,
    )


def unneeded_record(
    spec: RunSpec, question: Question, key: GenerationKey, request: Request | None = None
) -> Record:
    """Of a generation that was called off before it began: no tokens in no time."""
    failed = failed_record(spec, question, key, "", request)
    return replace(
        failed,
        finish_reason=UNNEEDED,
        new_tokens=0,
        forced_tokens=0,
        prefill_time=0.0,
        wall_time=0.0,
        draft_time=0.0,
        verify_time=0.0,
        accept_time=0.0,
        other_time=0.0,
    )


def identity(spec: RunSpec, question: Question, key: GenerationKey) -> dict[str, Any]:
    """Which generation of which run."""
    return {
        "question_id": question.id,
        "category": question.category,
        "reference_answer": question.answer,
        "paradigm": spec.paradigm.name,
        "choice": key.choice,
        "sample": key.sample,
        "round": key.round,
        "seed": spec.generation.seed,
        "method": spec.method.name,
        "temperature": spec.generation.temperature,
        "memory_scope": scope_text(spec.method.memory_scope or "", spec.workers.workers),
        "model_id": spec.model_id,
        "answer_id": uuid.uuid4().hex,
        "tstamp": time.time(),
        "shared": False,
        "in_turn": list(spec.in_turn),
    }


def _prompt(request: Request | None) -> dict[str, Any]:
    if request is None:
        return {"prompt_tokens": 0, "prompt_hash": ""}
    return {
        "prompt_tokens": len(request.prompt_ids),
        "prompt_hash": prompt_hash(request.prompt_ids),
        "prompt_ids": list(request.prompt_ids),
    }
