"""Runs a plan to its end: records and manifests a method, and the summary of all of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from evaluation.analysis.replay_summary import MethodSummary, ReplaySummary
from evaluation.records.manifest import SCHEMA, Manifest, manifest_path, read_manifest
from evaluation.records.writer import write_atomically
from evaluation.replaying.plan import Plan, Variant
from evaluation.replaying.replayer import QuestionResult, most_nodes
from evaluation.replaying.target import build
from evaluation.replaying.work import results
from evaluation.running.manifest import versions
from evaluation.running.progress import bar
from model import methods
from model.errors import UserError

SHOWN = 3
"""Generations left out that are named."""


@dataclass(frozen=True)
class Output:
    """The folder a replay writes into."""

    folder: Path
    plan: Plan

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {self.folder}: {error.strerror}") from None

    def records(self, variant: Variant) -> Path:
        return self.folder / f"{self.plan.model_id}-{variant.label}.jsonl"


def replay_all(plan: Plan, output: Output, workers: int, notices: list[str]) -> ReplaySummary:
    """Replay everything; notes in `notices` what was left out.

    Records appear under their names once all are written: what a kill leaves behind is no records
    file. Raises UserError for a trace that cannot be replayed.
    """
    summary = _empty_summary(plan)
    generations = plan.corpus.generations
    progress = bar(f"replaying {len(plan.variants)} methods", generations, 0, unit="texts")
    skipped: list[str] = []
    partial: set[str] = set()
    try:
        with ExitStack() as files:
            parts = _parts(plan, output, files)
            for result in results(plan, workers):
                for label, lines in result.lines.items():
                    parts[label].write(lines)
                _add(summary, result)
                skipped += result.skipped
                partial |= result.partial
                _show(progress, result, summary)
    except BaseException:
        for variant in plan.variants if plan.wants_records else ():
            output.records(variant).with_suffix(".part").unlink(missing_ok=True)
        raise
    finally:
        progress.close()
    if not summary.generations:
        raise UserError("no generation could be replayed: " + "; ".join(skipped[:SHOWN]))
    if skipped:
        notices.append(f"{len(skipped)} generation(s) left out: {'; '.join(skipped[:SHOWN])}")
    for label in sorted(partial):
        notices.append(
            f"{label} learns from rejected tokens too, and these records hold the target's"
            " likeliest tokens after emitted ones only: its own run accepts more (replay that run's"
            " records)"
        )
    for variant in plan.variants if plan.wants_records else ():
        path = output.records(variant)
        write_atomically(manifest_path(path), manifest(plan, variant).text())
        path.with_suffix(".part").replace(path)
    summary.write(output.folder)
    return summary


def _parts(plan: Plan, output: Output, files: ExitStack) -> dict[str, IO[str]]:
    """A file a variant, not yet under its name."""
    parts: dict[str, IO[str]] = {}
    for variant in plan.variants if plan.wants_records else ():
        path = output.records(variant).with_suffix(".part")
        try:
            file = open(path, "w", encoding="utf-8")  # noqa: SIM115 (closed with `files`)
            parts[variant.label] = files.enter_context(file)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
    return parts


def _show(progress: tqdm, result: QuestionResult, summary: ReplaySummary) -> None:
    progress.set_postfix_str(f"{summary.tokens:,} tokens", refresh=False)
    progress.update(result.generations + len(result.skipped))


def _empty_summary(plan: Plan) -> ReplaySummary:
    described = {}
    for variant in plan.variants:
        drafter = build(variant.method, plan.target, variant.options)
        scope = variant.scope or drafter.scope
        described[variant.label] = MethodSummary(scope, most_nodes(variant, drafter))
    source = _source(plan)
    return ReplaySummary(
        title=_title(plan),
        source=", ".join(map(str, plan.corpus.files)),
        paradigm=plan.paradigm,
        model=source.model_fingerprint,
        temperature=float(source.settings.get("temperature", plan.temperature)),
        interleave=plan.interleave,
        methods=described,
    )


def _title(plan: Plan) -> str:
    first, *others = plan.corpus.files
    title = f"replay of {first.stem}"
    return f"{title} and {len(others)} more files" if others else title


def _source(plan: Plan) -> Manifest:
    """Of the run that the traces are of; empty for foreign ones."""
    if plan.corpus.formats[0].endswith(".records"):
        return read_manifest(plan.corpus.files[0])
    fingerprints = {"model": "", "questions": _identity(plan)}
    spec = _foreign_spec(plan)
    return Manifest({"schema": SCHEMA, "spec": spec, "fingerprints": fingerprints, "family": ""})


def _add(summary: ReplaySummary, result: QuestionResult) -> None:
    if not result.generations:
        return
    summary.questions += 1
    summary.generations += result.generations
    summary.tokens += result.tokens
    for label, tally in result.tallies.items():
        summary.methods[label].tally.add(tally)
    for scope, bounds in result.bounds.items():
        if scope in summary.bounds:
            summary.bounds[scope].add(bounds)
        else:
            summary.bounds[scope] = bounds
    if result.combination:
        summary.combination[result.question] = result.combination


def manifest(plan: Plan, variant: Variant) -> Manifest:
    """What decides a replay's records, in the terms of a run's manifest."""
    data = json.loads(json.dumps(_source(plan).data))
    configs = methods.configure(variant.method, variant.options)
    drafter = build(variant.method, plan.target, variant.options)
    data["spec"]["method"] = {
        "name": variant.label,
        "configs": [dataclasses.asdict(config) for config in configs],
        "memory_scope": variant.scope or drafter.scope,
        "max_nodes": most_nodes(variant, drafter),
    }
    data["spec"]["model_id"] = plan.model_id
    data["spec"]["model"]["engine"] = "replay"
    data |= {
        "origin": "replay",
        "interleave": plan.interleave,
        "traces": [str(path) for path in plan.corpus.files],
        "questions": len(plan.corpus.questions),
        "end_think_id": plan.end_think_id,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "device": None,
        "threads": None,
        "tuned": {},
    }
    data.setdefault("model_folder", plan.target.path)
    return Manifest(json.loads(json.dumps(data)))


def _identity(plan: Plan) -> str:
    """Tells corpora apart: their files' sizes and questions."""
    sizes = [path.stat().st_size for path in plan.corpus.files]
    return hashlib.sha256(repr((sizes, list(plan.corpus.questions))).encode()).hexdigest()[:16]


def _foreign_spec(plan: Plan) -> dict[str, Any]:
    """A run's specification as far as foreign traces tell it."""
    return {
        "model": {"path": plan.target.path, "dtype": None, "engine": "replay"},
        "questions": {
            "bench": "traces",
            "question_file": str(plan.corpus.files[0]),
            "subset": "all",
        },
        "method": {"name": "", "configs": [], "memory_scope": "", "max_nodes": None},
        "paradigm": {"name": plan.paradigm, "num_choices": 1, "config": {}},
        "generation": {
            "temperature": plan.temperature,
            "max_new_tokens": None,
            "seed": 0,
            "thinking_budget": None,
            "sampling_top_k": 0,
            "sampling_top_p": 1.0,
        },
        "workers": {"workers": 0},
        "model_id": plan.model_id,
        "warmup": 0,
    }
