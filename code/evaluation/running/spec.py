"""What is to be run, as one frozen value: it travels to workers and into the manifest as it is.

Flags are parsed into it (`cli.py`), a run is built from it (`build.py`). Every group says what it
refuses.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.contract import Scope
from model.errors import UserError
from model.paths import DATA

ALL = 0
"""Value of `RunSpec.parallel`: all samples of a question."""
FOLDERS = {"multi_round": "model_answer", "best_of_n": "model_answer_BON"}
"""Where the published benchmark puts a paradigm's records."""


def _at_least(flag: str, value: float, least: float) -> None:
    if not math.isfinite(value) or value < least:
        raise UserError(f"{flag} must be at least {least}, not {value}")


@dataclass(frozen=True)
class ModelSpec:
    """The target, and how its forwards run."""

    path: str
    """A checkpoint folder, a hub id, or 'mini'."""
    dtype: str = "auto"
    device: str | None = None
    """None: a GPU where there is one."""
    engine: str = "auto"
    device_map: str | None = None
    chat_template: str | None = None
    """A file, for tokenizers without one."""
    threads: int = 0
    """CPU threads; 0: as many as run a step fastest."""

    def __post_init__(self) -> None:
        _at_least("--threads", self.threads, 0)


@dataclass(frozen=True)
class QuestionsSpec:
    """Which questions are asked."""

    bench: str = "mini"
    question_file: str | None = None
    subset: str = "all"
    allow_special: bool = False
    """Is the text of special tokens in questions encoded as these tokens?"""
    answer_instruction: str | None = None
    """Added to every question."""
    begin: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class MethodSpec:
    """What drafts, and how long it remembers."""

    name: str
    configs: tuple[Any, ...]
    """The method's option objects, outermost first (`model.methods.configure`)."""
    memory_scope: Scope | None = None
    """None: the method's own."""
    max_nodes: int | None = None
    """Most nodes of a draft, root included; None: as many as pay on this machine (`tuning.py`)."""

    def __post_init__(self) -> None:
        if self.max_nodes is not None:
            _at_least("--max-nodes", self.max_nodes, 1)


@dataclass(frozen=True)
class ParadigmSpec:
    """How a question is asked several times."""

    name: str
    config: Any
    """The paradigm's option object."""
    num_choices: int = 1
    """Repeats of the whole paradigm."""

    def __post_init__(self) -> None:
        _at_least("--num-choices", self.num_choices, 1)


@dataclass(frozen=True)
class GenerationSpec:
    """What every generation of the run shares."""

    max_new_tokens: int = 1024
    temperature: float = 0.0
    sampling_top_k: int = 0
    sampling_top_p: float = 1.0
    seed: int = 0
    thinking_budget: float | None = 0.8
    """Share of the token budget after which thinking is ended by force; None: never."""

    def __post_init__(self) -> None:
        _at_least("--max-new-tokens", self.max_new_tokens, 1)
        _at_least("--temperature", self.temperature, 0)
        _at_least("--sampling-top-k", self.sampling_top_k, 0)
        if not 0 <= self.sampling_top_p <= 1:
            raise UserError(f"--sampling-top-p must be between 0 and 1, not {self.sampling_top_p}")

    @property
    def only_temperature(self) -> bool:
        """Is temperature all that stands between logits and token?"""
        return self.sampling_top_k == 0 and self.sampling_top_p >= 1


@dataclass(frozen=True)
class WorkersSpec:
    """Over which workers the run is spread; the plain loop where it asks for none."""

    workers: int = 0
    """CPU processes of one thread each; once a run is spread, how many workers it has."""
    gpus_total: float | None = None
    gpus_per_model: float = 1
    ray_address: str | None = None

    def __post_init__(self) -> None:
        _at_least("--workers", self.workers, 0)
        if self.gpus_per_model <= 0 or (self.gpus_total is not None and self.gpus_total <= 0):
            raise UserError("--num-gpus-total and --num-gpus-per-model must be above 0")
        if self.gpus_per_model > 1 and self.gpus_per_model % 1:
            raise UserError("--num-gpus-per-model above 1 must be a whole number")

    @property
    def is_pool(self) -> bool:
        """Is the run spread over Ray workers?"""
        wants_several = (self.gpus_total or 0) > self.gpus_per_model
        return bool(self.workers or self.ray_address or wants_several)


@dataclass(frozen=True)
class RunSpec:
    """One method over a benchmark's questions under one paradigm: what the records depend on."""

    model: ModelSpec
    questions: QuestionsSpec
    method: MethodSpec
    paradigm: ParadigmSpec
    generation: GenerationSpec
    model_id: str
    """The run's name, and its records file's."""
    workers: WorkersSpec = WorkersSpec()
    answer_file: str | None = None
    warmup: int = 1
    """Short passes over the first question, not recorded."""
    in_turn: tuple[str, ...] = ()
    """The methods run question by question in one process, this one among them; none: alone."""

    record_topk: int = 0
    """How many of the target's likeliest tokens are recorded after every emitted one."""
    record_drafts: bool = False
    """Are the drafted nodes of every step recorded?"""
    parallel: int = 1
    """Samples of a question decoded in one forward; ALL of them, or 1: one after another."""
    max_rows: int | None = None
    """Most nodes of one forward, which the samples under way share; None: no limit."""

    def __post_init__(self) -> None:
        _at_least("--warmup", self.warmup, 0)
        _at_least("--record-topk", self.record_topk, 0)
        _at_least("--parallel", self.parallel, 0)
        if self.max_rows is not None:
            _at_least("--max-rows", self.max_rows, 1)
        if self.answer_file is not None and not self.answer_file.endswith(".jsonl"):
            raise UserError(f"--answer-file must end in .jsonl, not '{self.answer_file}'")

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.method.name} {self.paradigm.name} T={self.generation.temperature:g}"

    @property
    def path(self) -> Path:
        """Where the records go."""
        if self.answer_file:
            return Path(self.answer_file)
        return answer_path(DATA / self.questions.bench, self.paradigm.name, self.model_id)

    def as_json(self) -> dict[str, Any]:
        """Nested, as the manifest holds it."""
        return dataclasses.asdict(self)


def answer_path(folder: Path, paradigm: str, model_id: str) -> Path:
    """The records file of a run in a benchmark's folder, as the published benchmark lays it out."""
    room = FOLDERS.get(paradigm, f"model_answer_{paradigm}")
    return folder / room / f"{model_id}.jsonl"
