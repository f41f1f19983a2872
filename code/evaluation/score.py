"""Grade recorded generations: accuracy, pass@k, majority vote, and what a correct answer costs.

    python -m evaluation.score data/mini            (or single records files)

Runs after the fact and never changes a record; grades go to X.scores.json beside X.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaluation import tasks
from evaluation.analysis.comparison import comparisons_of
from evaluation.analysis.scores_file import scores_path
from evaluation.analysis.scoring import Graded, ScoreResult, score_result
from evaluation.command import Parser, add_quiet_flag, print_notices, run_command, summary
from evaluation.records.manifest import Manifest
from evaluation.records.runs import RunFile, find_runs, read_run
from evaluation.records.schema import Record
from evaluation.records.writer import write_atomically
from evaluation.report import definitions, tables
from evaluation.report.formatting import FORMATS
from evaluation.tasks import Question, questions_hash
from model.errors import UserError

WITHOUT_ANSWERS = 1
"""Records of this schema hold neither reference nor final answer."""


@dataclass
class Grader:
    """Grades a run by its task's own rule; equal answers to a question are graded once.

    Records hold the reference answer. Those of an older schema do not: their question file is read
    again, and must be the one they were made from.
    """

    run: RunFile
    _grades: dict[tuple[str, str], bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = self.run.manifest.settings
        if "bench" not in settings:
            raise UserError(
                f"{self.run.path} has no manifest beside it, so its questions are not known"
            )
        self.task = tasks.find(settings["bench"], settings.get("question_file"))
        self._questions: dict[str, Question] = {}
        if any(record.schema == WITHOUT_ANSWERS for record in self.run.records):
            self._questions = questions_of(self.run)

    def grade(self) -> list[Graded]:
        """Every generation that has an answer."""
        return [self._graded(record) for record in self.run.records if record.is_whole]

    def _graded(self, record: Record) -> Graded:
        question = self._question(record)
        final = final_answer(record, self.run.manifest)
        key = (question.id, final)
        if key not in self._grades:
            self._grades[key] = self.task.check(final, question)
        return Graded(record, final, self._grades[key])

    def _question(self, record: Record) -> Question:
        if record.schema != WITHOUT_ANSWERS:
            return Question(record.question_id, record.category, "", record.reference_answer)
        if record.question_id not in self._questions:
            raise UserError(
                f"{self.run.path}: question {record.question_id} is not in the task's questions;"
                " records and question file do not belong together"
            )
        return self._questions[record.question_id]


def questions_of(run: RunFile) -> dict[str, Question]:
    """The questions a run was made from, by id.

    Raises UserError where its question file holds others now (by `questions_hash`).
    """
    manifest, settings = run.manifest, run.manifest.settings
    _, every = tasks.load(
        settings["bench"], settings.get("question_file"), settings.get("subset", "all")
    )
    count = manifest.questions or len(every)
    # a run may have asked a slice of them
    for begin in range(len(every) - count + 1):
        asked = every[begin : begin + count]
        if questions_hash(asked) == manifest.questions_hash:
            return {question.id: question for question in asked}
    where = settings.get("question_file") or f"the task '{settings['bench']}'"
    raise UserError(
        f"{run.path} was made from other questions than {where} holds now"
        f" (questions_hash {manifest.questions_hash}); put the questions it was made from back"
    )


def final_answer(record: Record, manifest: Manifest) -> str:
    """What follows the thinking: all in a family without, nothing where it never ended.

    For records that do not hold it the marker's id decides, since a template may open the thinking
    in the prompt.
    """
    if record.schema != WITHOUT_ANSWERS:
        return record.final_answer or ""
    if manifest.end_think_id is None or manifest.end_think is None:
        return record.text
    if manifest.end_think_id not in record.output_ids:
        return ""
    return record.text.rsplit(manifest.end_think, 1)[-1]


def score_run(run: RunFile, base: RunFile | None) -> ScoreResult:
    """Grade one run and keep its grades beside it."""
    graded = Grader(run).grade()
    result = score_result(run, base, graded)
    verdicts = [[*item.record.key, item.right] for item in graded]
    text = json.dumps({"summary": result.as_json(), "verdicts": verdicts}) + "\n"
    write_atomically(scores_path(run.path), text)
    return result


def score_runs(runs: Sequence[RunFile], notices: list[str]) -> dict[str, list[ScoreResult]]:
    """Every run's scores by its setting; repeats are compared with vanilla's repeats in turn."""
    by_title: dict[str, list[ScoreResult]] = {}
    for comparison in comparisons_of([run for run in runs if run.records], notices):
        results = by_title.setdefault(comparison.title, [])
        for method in comparison.methods:
            for i, run in enumerate(method.runs):
                base = None
                if comparison.vanilla:
                    repeats = comparison.vanilla.runs
                    base = repeats[min(i, len(repeats) - 1)]
                results.append(score_run(run, base))
    return by_title


def main() -> int:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("files", nargs="+", type=Path, help="records files, or folders of them")
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    add_quiet_flag(parser)
    args = parser.parse_args()
    notices: list[str] = []
    runs: list[RunFile] = []
    for path in args.files:
        runs += find_runs(path, notices) if path.is_dir() else [read_run(path, notices)]
    if not any(run.records for run in runs):
        raise UserError(
            "published traces carry no settings and are not graded;"
            " score this benchmark's own records"
        )
    by_title = score_runs(runs, notices)
    if args.quiet:
        return 0
    print_notices(notices)
    for title, results in by_title.items():
        print(f"\n{title}\n{tables.scores(title, results).text(args.format)}")
    print("\n" + definitions.SCORES)
    return 0


if __name__ == "__main__":
    run_command(main)()
