"""The published benchmark's trace files: one line a question.

Their `accept_lengths` run over all turns, vanilla's token counts may be re-tokenised
(`speed.py --formula original --tokenizer-path`), and prompts, ids and settings are not in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from evaluation.records.schema import Record
from evaluation.records.totals import Total
from model.errors import UserError


@dataclass(frozen=True)
class TracedQuestion:
    """One line: choice 0 of a question."""

    question_id: str
    category: str
    model_id: str
    turns: list[str]
    new_tokens: list[int]
    wall_time: list[float]
    accept_lengths: list[int]

    def total(self, tokenize: Callable[[str], list[int]] | None = None) -> Total:
        """Tokens and seconds over all turns.

        With `tokenize`, tokens as the published script counts vanilla's: re-tokenised, less one a
        turn.
        """
        if tokenize is None:
            tokens = sum(self.new_tokens)
        else:
            tokens = sum(len(tokenize(turn)) - 1 for turn in self.turns)
        return Total(tokens, sum(self.wall_time))


def is_trace(data: dict[str, Any]) -> bool:
    return "choices" in data and "schema" not in data


def parse_traces(
    lines: Iterable[tuple[str, dict[str, Any]]], notices: list[str]
) -> list[TracedQuestion]:
    """A question for every (where, line); of equal ids the last wins, as published.

    A question with a turn 'ERROR' is left out and noted in `notices`. Raises UserError for a line
    of another format.
    """
    questions: dict[str, TracedQuestion] = {}
    for where, data in lines:
        question = _question(data, where)
        if "ERROR" not in question.turns:
            questions[question.question_id] = question
        else:
            notices.append(
                f"{where}: question {question.question_id} failed (turn 'ERROR');"
                " its numbers are left out"
            )
    return list(questions.values())


def _question(data: dict[str, Any], where: str) -> TracedQuestion:
    try:
        choice = data["choices"][0]
        return TracedQuestion(
            question_id=str(data["question_id"]),
            category=str(data.get("category", "all")),
            model_id=data["model_id"],
            turns=choice["turns"],
            new_tokens=choice["new_tokens"],
            wall_time=choice["wall_time"],
            accept_lengths=choice["accept_lengths"],
        )
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{where}: not a line of the published trace format: {error!r} is missing"
        ) from None


def to_traces(records: list[Record]) -> list[dict[str, Any]]:
    """Our records as lines of the published format.

    A failed generation is the turn 'ERROR' with zero tokens.
    """
    questions: dict[str, dict[int, list[Record]]] = {}
    for record in records:
        choices = questions.setdefault(record.question_id, {})
        choices.setdefault(record.choice, []).append(record)
    return [_line(choices) for choices in questions.values()]


def _line(choices: dict[int, list[Record]]) -> dict[str, Any]:
    first = next(iter(choices.values()))[0]
    is_number = first.question_id.isdigit()
    return {
        "question_id": int(first.question_id) if is_number else first.question_id,
        "category": first.category,
        "answer_id": first.answer_id,
        "model_id": first.model_id,
        "tstamp": first.tstamp,
        "choices": [_choice(index, choices[index]) for index in sorted(choices)],
    }


def _choice(index: int, records: list[Record]) -> dict[str, Any]:
    records = sorted(records, key=lambda record: (record.sample, record.round))
    accept_lengths: list[int] = []
    for record in records:
        accept_lengths += record.accept_lengths
    return {
        "index": index,
        "turns": ["ERROR" if record.failed else record.text for record in records],
        "decoding_steps": [len(record.accept_lengths) for record in records],
        "new_tokens": [record.tokens for record in records],
        "wall_time": [record.seconds for record in records],
        "accept_lengths": accept_lengths,
    }
