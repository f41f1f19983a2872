"""Records files as runs: which file is which method, and which runs may be compared."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from evaluation.records.manifest import Manifest, manifest_path, read_manifest
from evaluation.records.reading import json_lines
from evaluation.records.schema import Record, parse_record
from evaluation.records.totals import Total, by_question
from evaluation.records.traces import TracedQuestion, is_trace, parse_traces
from model.errors import UserError

MUST_AGREE = (
    "max_new_tokens",
    "thinking_budget",
    "dtype",
    "engine",
    "seed",
    "num_choices",
    "sampling_top_k",
    "sampling_top_p",
    "paradigm_options",
    "record_topk",
    "record_drafts",
    "parallel",
)
"""Settings in which runs must agree for their times, and at temperatures above 0 their texts, to
compare."""


class Setting(NamedTuple):
    """Runs of one setting are compared. `model` is the target's fingerprint."""

    paradigm: str
    temperature: float
    model: str
    together: int = 1
    """Most samples of a question that were decoded in one forward."""

    @property
    def alone(self) -> Setting:
        """The same, whatever number is decoded together."""
        return self._replace(together=1)


@dataclass(frozen=True)
class RunFile:
    """One file: of our records, or of published traces."""

    path: Path
    records: tuple[Record, ...] = ()
    traces: tuple[TracedQuestion, ...] = ()

    @property
    def name(self) -> str:
        """The method."""
        return self.records[0].method if self.records else self.path.stem

    @cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.path)

    @property
    def setting(self) -> Setting:
        first = self.records[0]
        together = max(record.batch for record in self.records)
        return Setting(first.paradigm, first.temperature, self.manifest.model_fingerprint, together)

    @cached_property
    def totals(self) -> dict[str, Total]:
        """Tokens and seconds of every question that is finished."""
        if self.records:
            return by_question(self.records)
        return {question.question_id: question.total() for question in self.traces}

    @cached_property
    def prompts(self) -> dict[str, str]:
        """Hash of each question's first prompt."""
        first = {}
        for record in self.records:
            if record.sample == record.round == record.choice == 0:
                first[record.question_id] = record.prompt_hash
        return first


def read_run(path: Path, notices: list[str]) -> RunFile:
    """Read a file of either format; raises UserError where it is damaged or mixes runs."""
    lines = list(json_lines(path, notices))
    if not lines:
        raise UserError(
            f"{path} holds no records; a run that has not finished its first question writes none"
        )
    if is_trace(lines[0][1]):
        return RunFile(path, traces=tuple(parse_traces(lines, notices)))
    run = RunFile(path, records=tuple(parse_record(data, where) for where, data in lines))
    _check_one_run(run)
    if shared := sum(record.shared for record in run.records):
        notices.append(
            f"{path}: {shared} of {len(run.records)} generations ran while another run used the"
            " same GPU or cores; their times are not comparable"
        )
    return run


def _check_one_run(run: RunFile) -> None:
    """A file is one run: one method, paradigm and temperature, no generation twice."""
    kinds = {(record.method, record.paradigm, record.temperature) for record in run.records}
    if len(kinds) > 1:
        mixed = "; ".join(f"{method} {paradigm} T={t:g}" for method, paradigm, t in sorted(kinds))
        raise UserError(f"{run.path} mixes runs ({mixed}); one file is one run")
    counts = Counter(record.key for record in run.records)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        question, choice, sample, round = repeated[0]
        raise UserError(
            f"{run.path} holds {len(repeated)} generations twice (question {question}, choice"
            f" {choice}, sample {sample}, round {round}); remove the copies"
        )


def find_runs(folder: Path, notices: list[str], may_be_empty: bool = False) -> list[RunFile]:
    """Every non-empty run file below a folder; one without a finished question is noted, not read.

    Replays are no runs and are passed over. Raises UserError where there is none, unless it
    `may_be_empty`.
    """
    runs = []
    for path in sorted(folder.rglob("*.jsonl")):
        if not _is_run_file(path):
            if _looks_like_records(path):
                notices.append(
                    f"{path}: records without a manifest are passed over;"
                    f" copy {path.stem}.manifest.json beside it"
                )
            continue
        if read_manifest(path).is_replay:
            continue
        if not any(json_lines(path, [])):
            notices.append(f"{path}: no finished question yet")
            continue
        runs.append(read_run(path, notices))
    if not runs and not may_be_empty:
        raise UserError(f"no records (*.jsonl with a manifest, or published traces) in {folder}")
    return runs


def _is_run_file(path: Path) -> bool:
    """Records have a manifest beside them, traces have 'choices'; question files have neither."""
    if manifest_path(path).exists():
        return True
    with open(path, encoding="utf-8", errors="replace") as file:
        try:
            first = json.loads(file.readline())
            return is_trace(first) and "turns" in first["choices"][0]
        except (ValueError, LookupError, TypeError):
            return False


def _looks_like_records(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        first = file.readline(4000)
    return first.startswith('{"question_id"') and '"paradigm"' in first


def check_comparable(run: RunFile, base: RunFile) -> None:
    """Raise UserError for runs over different questions or prompts."""
    if not set(run.totals) & set(base.totals):
        raise UserError(
            f"{run.path} and {base.path} have no question in common;"
            " speed-ups need the same questions"
        )
    check_prompts(run, base)


def check_prompts(run: RunFile, base: RunFile) -> None:
    """Raise UserError for runs that were asked different things under the same question ids."""
    common = sorted(set(run.prompts) & set(base.prompts))
    differing = [question for question in common if run.prompts[question] != base.prompts[question]]
    if differing:
        raise UserError(
            f"{run.path} and {base.path} were asked different prompts under the same question ids"
            f" ({', '.join(differing[:5])}); they cannot be compared"
        )


def differences(run: RunFile, base: RunFile) -> list[str]:
    """What keeps two runs' times from comparing, by name."""
    differing = run.manifest.differing(base.manifest, MUST_AGREE)
    if run.manifest.device != base.manifest.device:
        differing.append("device")
    if run.manifest.threads != base.manifest.threads:
        differing.append("threads")
    return differing


def unlike(run: RunFile, base: RunFile) -> list[str]:
    """What makes a method's file and vanilla's unlike, with both values; a file of several memory
    scopes too."""
    found = []
    for name in ("paradigm", "temperature", "model"):
        values = getattr(run.setting, name), getattr(base.setting, name)
        if values[0] != values[1]:
            found.append(f"{name} {values[0]} / {values[1]}")
    for name in differences(run, base):
        values = run.manifest.settings.get(name), base.manifest.settings.get(name)
        found.append(f"{name} {values[0]} / {values[1]}" if values != (None, None) else name)
    for file in (run, base):
        scopes = sorted({record.memory_scope for record in file.records})
        if len(scopes) > 1:
            found.append(f"{file.path.name} mixes memory scopes {', '.join(scopes)}")
    return found


def note_differences(run: RunFile, base: RunFile, notices: list[str]) -> None:
    """Note what keeps two runs' times from comparing; different prompts are a UserError."""
    if not set(run.totals) & set(base.totals):
        notices.append(f"{run.path.name}: no finished question in common with {base.path.name} yet")
        return
    check_comparable(run, base)
    differing = differences(run, base)
    if differing:
        notices.append(
            f"{run.path.name} and {base.path.name} differ in {', '.join(differing)}:"
            " their times do not compare"
        )
