"""The published benchmark's trace files: one line a question, reading them and writing ours in their shape.

Their `accept_lengths` run over all turns, vanilla's token counts may be re-tokenised (`speed.py --formula original
--tokenizer-path`), and prompts, ids and settings are not in them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.metrics import Total
from evaluation.records import Record, json_lines
from model.errors import UserError


@dataclass(frozen=True)
class LegacyQuestion:
    """One line: choice 0 of a question."""

    question_id: str
    category: str
    model_id: str
    turns: list[str]
    new_tokens: list[int]
    wall_time: list[float]
    accept_lengths: list[int]

    def total(self, tokenize: Callable[[str], list[int]] | None = None) -> Total:
        """Tokens and seconds over all turns; with `tokenize`, tokens as the published script counts vanilla's."""
        tokens = sum(self.new_tokens) if tokenize is None else sum(len(tokenize(t)) - 1 for t in self.turns)
        return Total(tokens, sum(self.wall_time))


def is_legacy(data: dict[str, Any]) -> bool:
    return "choices" in data and "schema" not in data


def read_legacy(path: Path, notices: list[str] | None = None) -> list[LegacyQuestion]:
    """Every line; the last of equal question ids wins, as in the published reader. ERROR turns are refused."""
    found: dict[str, LegacyQuestion] = {}
    for where, data in json_lines(path, notices):
        try:
            choice = data["choices"][0]
            question = LegacyQuestion(str(data["question_id"]), str(data.get("category", "all")), data["model_id"],
                                      choice["turns"], choice["new_tokens"], choice["wall_time"], choice["accept_lengths"])
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(f"{where}: not a line of the published trace format: {error!r} is missing") from None
        if "ERROR" in question.turns:
            if notices is not None:
                notices.append(f"{where}: question {question.question_id} failed (turn 'ERROR'); its numbers are left out")
            continue
        found[question.question_id] = question
    return list(found.values())


def to_legacy(records: list[Record]) -> list[dict[str, Any]]:
    """Our records as the published format's lines, failed generations as the turn 'ERROR' with zero tokens."""
    questions: dict[str, dict[int, list[Record]]] = {}
    for record in records:
        questions.setdefault(record.question_id, {}).setdefault(record.choice, []).append(record)
    return [_line(choices) for choices in questions.values()]


def _line(choices: dict[int, list[Record]]) -> dict[str, Any]:
    first = next(iter(choices.values()))[0]
    question_id = int(first.question_id) if first.question_id.isdigit() else first.question_id
    return {"question_id": question_id, "category": first.category, "answer_id": first.answer_id,
            "model_id": first.model_id, "tstamp": first.tstamp,
            "choices": [_choice(index, records) for index, records in sorted(choices.items())]}


def _choice(index: int, records: list[Record]) -> dict[str, Any]:
    records = sorted(records, key=lambda r: (r.sample, r.round))
    return {"index": index, "turns": ["ERROR" if r.failed else r.text for r in records],
            "decoding_steps": [len(r.accept_lengths) for r in records],
            "new_tokens": [r.new_tokens or 0 for r in records], "wall_time": [r.wall_time or 0.0 for r in records],
            "accept_lengths": [n for r in records for n in r.accept_lengths]}
