"""Grade recorded generations: accuracy, pass@k, majority vote, and what a correct answer costs.

    python -m evaluation.score data/mini            (or single records files)

Runs after the fact and never changes a record; verdicts go to X.scores.json beside X.jsonl.
"""

import argparse
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from math import comb
from pathlib import Path
from types import ModuleType
from typing import Any

from evaluation import tasks
from evaluation.boxed import last_boxed
from evaluation.comparison import settings_of
from evaluation.errors import guarded
from evaluation.records import Record
from evaluation.runs import Run, find_runs, read_run
from evaluation.tables import FORMATS, number, percent, render
from evaluation.tasks import Question
from evaluation.writer import write_atomically
from model.errors import UserError

HEADER = ("method", "n", "accuracy", "as vanilla", "by round", "by sample", "pass@k", "vote", "tokens", "s / correct",
          "tokens / correct", "unscorable", "failed")
DEFINITIONS = """\
accuracy   right generations / scorable generations; an answer that is cut, empty or without a box is wrong
as vanilla 'exact': the texts are vanilla's token for token, so accuracy must be equal (and is); else how many are
pass@k     chance that one of k samples is right, unbiased: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, eq. 1), k = samples
vote       accuracy of the commonest boxed answer of a question's samples (ties: the first to appear)"""


def final_part(record: Record, manifest: dict[str, Any]) -> str:
    """What follows the thinking: all of it in a family without markers, nothing where the thinking never ended.

    The marker's id decides, since a template may open the thinking in the prompt.
    """
    if manifest.get("end_think_id") is None:
        return record.text
    return record.text.rsplit(manifest["end_think"], 1)[-1] if manifest["end_think_id"] in record.output_ids else ""


@dataclass(frozen=True)
class Verdict:
    """A generation with its verdict: None where the question has no reference answer; `final` follows the thinking."""

    record: Record
    final: str
    right: bool | None


def grade(run: Run, module: ModuleType, questions: dict[str, Question]) -> list[Verdict]:
    """Every generation that has numbers, graded by the task's own rule; equal answers are graded once."""
    known: dict[tuple[str, str], bool | None] = {}
    verdicts = []
    for record in run.records:
        if record.failed:
            continue
        if record.question_id not in questions:
            raise UserError(f"{run.path}: question {record.question_id} is not in the task's questions; records and "
                            f"question file do not belong together")
        question, final = questions[record.question_id], final_part(record, run.manifest)
        key = (question.id, final)
        if key not in known:
            known[key] = module.check(final, question)
        verdicts.append(Verdict(record, final, known[key]))
    return verdicts


def rate(verdicts: list[Verdict]) -> float:
    """Share of right ones among the scorable."""
    scored = [v.right for v in verdicts if v.right is not None]
    return sum(scored) / len(scored) if scored else float("nan")


def pass_at_k(right: int, total: int, k: int) -> float:
    """Unbiased estimate from `total` samples of which `right` are right (Chen et al. 2021)."""
    return 1.0 if total - right < k else 1.0 - comb(total - right, k) / comb(total, k)


def by(verdicts: list[Verdict], field: str) -> dict[Any, list[Verdict]]:
    groups: dict[Any, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        groups[getattr(verdict.record, field)].append(verdict)
    return dict(sorted(groups.items()))


def vote(verdicts: list[Verdict]) -> bool | None:
    """Is the commonest boxed answer right?"""
    boxes = [last_boxed(v.final) for v in verdicts]
    given = [b for b in boxes if b is not None]
    if not given:
        return False
    winner = Counter(given).most_common(1)[0][0]
    return verdicts[boxes.index(winner)].right


def same_as(run: Run, base: Run | None) -> str:
    """'exact' where every text is vanilla's, else how many are."""
    if base is None:
        return "-"
    theirs = {r.key: r.output_ids for r in base.records if not r.failed}
    mine = [r for r in run.records if not r.failed and r.key in theirs]
    equal = sum(r.output_ids == theirs[r.key] for r in mine)
    return "exact" if mine and equal == len(mine) else f"{equal} of {len(mine)}"


def row(run: Run, base: Run | None, verdicts: list[Verdict]) -> dict[str, Any]:
    """One method's scores."""
    right = sum(v.right is True for v in verdicts)
    per_question = by(verdicts, "question_id")
    scorable = {q: vs for q, vs in per_question.items() if all(v.right is not None for v in vs)}
    samples = min((len(vs) for vs in scorable.values()), default=0)
    passed = [pass_at_k(sum(bool(v.right) for v in vs), len(vs), samples) for vs in scorable.values()]
    votes = [vote(vs) for vs in scorable.values()]
    seconds, tokens = (sum(getattr(v.record, f) for v in verdicts) for f in ("wall_time", "new_tokens"))
    return {
        "method": run.name, "setting": list(run.setting), "n": len(verdicts), "accuracy": rate(verdicts),
        "same_as_vanilla": same_as(run, base), "rounds": {r: rate(vs) for r, vs in by(verdicts, "round").items()},
        "samples": {s: rate(vs) for s, vs in by(verdicts, "sample").items()}, "k": samples,
        "pass_at_k": sum(passed) / len(passed) if passed else float("nan"),
        "vote": sum(map(bool, votes)) / len(votes) if votes else float("nan"),
        "tokens": tokens / len(verdicts) if verdicts else float("nan"),
        "seconds_per_correct": seconds / right if right else float("nan"),
        "tokens_per_correct": tokens / right if right else float("nan"),
        "unscorable": sum(v.right is None for v in verdicts), "failed": sum(r.failed for r in run.records)}


def cells(values: dict[str, Any]) -> list[str]:
    def several(group: dict[Any, float]) -> str:
        return " ".join(percent(v).replace(" %", "") for v in group.values()) + " %" if len(group) > 1 else "-"

    bon = values["setting"][0] == "best_of_n"
    return [values["method"], str(values["n"]), percent(values["accuracy"]), values["same_as_vanilla"],
            several(values["rounds"]), several(values["samples"]),
            f"{percent(values['pass_at_k'])} (k={values['k']})" if bon else "-", percent(values["vote"]) if bon else "-",
            number(values["tokens"], 0), number(values["seconds_per_correct"], 1), number(values["tokens_per_correct"], 0),
            str(values["unscorable"]), str(values["failed"])]


def questions_of(run: Run) -> tuple[ModuleType, dict[str, Question]]:
    """The task a run was made with, from its manifest."""
    settings = run.manifest.get("settings")
    if not settings:
        raise UserError(f"{run.path} has no manifest beside it, so its questions are not known")
    module, found = tasks.load(settings["bench"], settings.get("question_file"), settings.get("subset", "all"))
    return module, {q.id: q for q in found}


def score_run(run: Run, base: Run | None) -> dict[str, Any]:
    """Grade one run and keep its verdicts beside it."""
    verdicts = grade(run, *questions_of(run))
    values = row(run, base, verdicts)
    keyed = [[*v.record.key, v.right] for v in verdicts]
    write_atomically(run.path.with_suffix(".scores.json"), json.dumps({"summary": values, "verdicts": keyed}) + "\n")
    return values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", help="records files, or folders of them")
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    args = parser.parse_args()
    notices: list[str] = []
    runs: list[Run] = []
    for name in args.files:
        runs += find_runs(Path(name), notices) if Path(name).is_dir() else [read_run(Path(name), notices)]
    if not any(r.records for r in runs):
        raise UserError("published traces carry no settings and are not graded; score this benchmark's own records")
    values = [score_run(run, s.vanilla and s.vanilla.runs[min(i, len(s.vanilla.runs) - 1)])
              for s in settings_of([r for r in runs if r.records], notices) for m in s.methods for i, run in enumerate(m.runs)]
    for notice in notices:
        print(f"note: {notice}")
    for setting in dict.fromkeys(tuple(v["setting"]) for v in values):
        print(f"\n{setting[0]}, temperature {setting[1]:g}")
        print(render(HEADER, [cells(v) for v in values if tuple(v["setting"]) == setting], args.format))
    print("\n" + DEFINITIONS)
    return 0


if __name__ == "__main__":
    guarded(main)()
