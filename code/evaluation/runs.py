"""Records files as runs: which file is which method, which vanilla it is measured against, what may be compared."""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluation.legacy import LegacyQuestion, is_legacy, read_legacy
from evaluation.metrics import Total, by_question
from evaluation.records import Record, json_lines, parse_record
from model.errors import UserError

# settings in which runs must agree for their times, and at temperatures above 0 their texts, to compare
MUST_AGREE = ("max_new_tokens", "thinking_budget", "dtype", "engine", "seed", "num_choices", "top_k", "top_p",
              "paradigm_options")


@dataclass(frozen=True)
class Run:
    """One records file: ours (`records`) or the published format's (`legacy`)."""

    path: Path
    records: tuple[Record, ...] = ()
    legacy: tuple[LegacyQuestion, ...] = ()

    @property
    def name(self) -> str:
        return self.records[0].method if self.records else self.path.stem

    @property
    def model_name(self) -> str:
        """The checkpoint's folder or hub name, for people."""
        folder = Path(self.manifest.get("model_folder", ""))
        return (folder.parent if folder.name == "target" else folder).name

    @property
    def setting(self) -> tuple[str, float, str]:
        """(paradigm, temperature, target): methods of one setting are compared. The target is named by its fingerprint."""
        if not self.records:
            return "", float("nan"), ""
        first = self.records[0]
        return first.paradigm, first.temperature, str(self.manifest.get("settings", {}).get("model", ""))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest beside the file, empty where there is none."""
        file = self.path.with_suffix(".manifest.json")
        if not file.exists():
            return {}
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file} is damaged ({error}); delete it and run again to have it rewritten") from None
        if not isinstance(found, dict) or not isinstance(found.get("settings", {}), dict):
            raise UserError(f"{file} is no manifest; delete it and run again to have it rewritten")
        return found

    @cached_property
    def totals(self) -> dict[str, Total]:
        if self.records:
            return by_question(self.records)
        return {q.question_id: q.total() for q in self.legacy}

    @cached_property
    def prompts(self) -> dict[str, str]:
        """Hash of each question's first prompt."""
        return {r.question_id: r.prompt_hash for r in self.records if r.sample == r.round == r.choice == 0}


def read_run(path: Path, notices: list[str]) -> Run:
    """Read a file of either format."""
    lines = list(json_lines(path, notices))
    if not lines:
        raise UserError(f"{path} holds no records; a run that has not finished its first question writes none")
    if is_legacy(lines[0][1]):
        return Run(path, legacy=tuple(read_legacy(path)))
    run = Run(path, records=tuple(parse_record(data, where) for where, data in lines))
    _check_one_run(run)
    if shared := sum(r.shared for r in run.records):
        notices.append(f"{path}: {shared} of {len(run.records)} generations ran while another run used the same GPU or cores;"
                       f" their times are not comparable")
    return run


def _check_one_run(run: Run) -> None:
    """A file is one run: one method, paradigm and temperature, no generation twice."""
    kinds = {(r.method, r.paradigm, r.temperature) for r in run.records}
    if len(kinds) > 1:
        mixed = "; ".join(f"{m} {p} T={t:g}" for m, p, t in sorted(kinds))
        raise UserError(f"{run.path} mixes runs ({mixed}); one file is one run")
    repeated = [key for key, count in Counter(r.key for r in run.records).items() if count > 1]
    if repeated:
        question, choice, sample, round = repeated[0]
        raise UserError(f"{run.path} holds {len(repeated)} generations twice (question {question}, choice {choice}, sample"
                        f" {sample}, round {round}); remove the copies")


def find_runs(folder: Path, notices: list[str]) -> list[Run]:
    """Every non-empty records file below a folder; a file still without a finished question is said, not read."""
    runs = []
    for path in sorted(folder.rglob("*.jsonl")):
        if not _is_records(path):
            if _looks_like_records(path):
                notices.append(f"{path}: records without a manifest are passed over; copy {path.stem}.manifest.json beside it")
            continue
        if not any(json_lines(path)):
            notices.append(f"{path}: no finished question yet")
            continue
        runs.append(read_run(path, notices))
    if not runs:
        raise UserError(f"no records (*.jsonl with a manifest, or published traces) in {folder}")
    return runs


def _is_records(path: Path) -> bool:
    """A records file has a manifest beside it, or lines with 'choices': question files are passed over."""
    if path.with_suffix(".manifest.json").exists():
        return True
    with open(path, encoding="utf-8", errors="replace") as file:
        try:
            first = json.loads(file.readline())
            return is_legacy(first) and "turns" in first["choices"][0]
        except (ValueError, LookupError, TypeError):
            return False


def _looks_like_records(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline(4000).startswith('{"question_id"')


def check_comparable(run: Run, base: Run) -> None:
    """Refuse runs over different questions or prompts."""
    shared = set(run.totals) & set(base.totals)
    if not shared:
        raise UserError(f"{run.path} and {base.path} have no question in common; speed-ups need the same questions")
    check_prompts(run, base)


def check_prompts(run: Run, base: Run) -> None:
    """Refuse runs that were asked different things under the same question ids."""
    differing = sorted(q for q in run.prompts if q in base.prompts and run.prompts[q] != base.prompts[q])
    if differing:
        raise UserError(f"{run.path} and {base.path} were asked different prompts under the same question ids"
                        f" ({', '.join(differing[:5])}); they cannot be compared")


def comparable(run: Run, base: Run, notices: list[str]) -> None:
    """Nothing in common yet is said; different prompts are refused; other budgets are said."""
    if not set(run.totals) & set(base.totals):
        notices.append(f"{run.path.name}: no finished question in common with {base.path.name} yet")
        return
    check_comparable(run, base)
    mine, theirs = (r.manifest.get("settings", {}) for r in (run, base))
    other = [k for k in MUST_AGREE if mine.get(k) != theirs.get(k)]
    other += [k for k in ("device", "threads") if run.manifest.get(k) != base.manifest.get(k)]
    if other:
        notices.append(f"{run.path.name} and {base.path.name} differ in {', '.join(other)}: their times do not compare")
