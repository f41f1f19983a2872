"""What the page shows of a setting, a replay or an audit, and the file that keeps it: from it the
same page can be made again, elsewhere and over several machines.

`entries.json` holds numbers, tables and charts; no text that a model wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any

from evaluation.analysis.answer import AnswerRow, Badge, SettingAnswer
from evaluation.records.writer import write_atomically
from evaluation.report.charts import Chart
from evaluation.report.checks import checked, texts
from evaluation.report.formatting import Table
from model.errors import UserError, first_line

FILE = "entries.json"
SCHEMA = 1
FACETS = ("model", "machine", "setting", "together", "origin", "date")
"""What the page lets one choose by."""
TEXTS_OF_ROW = ("method", "verdict", "texts")
NUMBERS_OF_ROW = ("ratio", "low", "high", "accuracy", "cost", "tokens_per_second", "mat")
"""Fields of an `AnswerRow`."""


@dataclass(frozen=True)
class Entry:
    """One setting of one machine."""

    title: str
    facets: Mapping[str, str] = field(default_factory=dict)
    """By FACETS, as far as they are known."""
    answer: SettingAnswer | None = None
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "facets": dict(self.facets),
            "answer": asdict(self.answer) if self.answer else None,
            "charts": [chart.as_json() for chart in self.charts],
            "tables": [asdict(table) for table in self.tables],
        }

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Entry:
        """Raises LookupError, TypeError or ValueError where `data` is no entry."""
        answer, facets = data["answer"], checked(data["facets"], dict)
        return cls(
            title=checked(data["title"], str),
            facets={name: checked(value, str) for name, value in facets.items()},
            answer=_answer_of_json(answer) if answer else None,
            charts=tuple(map(Chart.of_json, checked(data["charts"], list))),
            tables=tuple(map(_table_of_json, checked(data["tables"], list))),
        )

    @property
    def methods(self) -> list[str]:
        """Of its answer and its charts, in their order."""
        names = {row.method: None for row in self.answer.rows} if self.answer else {}
        for chart in self.charts:
            names |= {row["method"]: None for row in chart.rows if "method" in row}
        return list(names)


def _answer_of_json(data: Mapping[str, Any]) -> SettingAnswer:
    rows = []
    for row in checked(data["rows"], list):
        values: dict[str, Any] = {"badges": tuple(map(_badge_of_json, row["badges"]))}
        for name in TEXTS_OF_ROW:
            values[name] = checked(row[name], str)
        for name in NUMBERS_OF_ROW:
            values[name] = checked(row[name], int, float, NoneType)
        values["memory"] = checked(row["memory"], int)
        rows.append(AnswerRow(**values))
    return SettingAnswer(checked(data["title"], str), checked(data["sentence"], str), tuple(rows))


def _badge_of_json(data: Mapping[str, Any]) -> Badge:
    return Badge(checked(data["text"], str), checked(data["detail"], str))


def _table_of_json(data: Mapping[str, Any]) -> Table:
    rows = list(map(texts, checked(data["rows"], list)))
    title, topic = checked(data["title"], str), checked(data["topic"], str)
    return Table(title, texts(data["header"]), rows, topic)


@dataclass(frozen=True)
class Export:
    """What a report leaves for other reports."""

    title: str
    subtitle: str
    entries: tuple[Entry, ...]
    notices: tuple[str, ...]
    definitions: str

    def write(self, file: Path) -> None:
        data = {
            "schema": SCHEMA,
            "title": self.title,
            "subtitle": self.subtitle,
            "entries": [entry.as_json() for entry in self.entries],
            "notices": list(self.notices),
            "definitions": self.definitions,
        }
        write_atomically(file, json.dumps(data, ensure_ascii=False) + "\n")


def read_export(file: Path) -> Export:
    """Raises UserError for a file that no report wrote."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON file: {error}") from None
    remedy = f"give the {FILE} that `spectts report DIR` writes"
    if not isinstance(data, dict) or "entries" not in data:
        raise UserError(f"{file} holds no entries of a report; {remedy}")
    if data.get("schema") != SCHEMA:
        raise UserError(
            f"{file}: entries of schema {data.get('schema')!r} are unknown; this version reads"
            f" schema {SCHEMA}"
        )
    try:
        return Export(
            title=checked(data["title"], str),
            subtitle=checked(data["subtitle"], str),
            entries=tuple(map(Entry.of_json, checked(data["entries"], list))),
            notices=tuple(texts(data["notices"])),
            definitions=checked(data["definitions"], str),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({first_line(error)}); {remedy}") from None


def _no_number(text: str) -> float:
    """JSON has no NaN and no infinity, and the page's browser would read none of it."""
    raise ValueError(f"{text} is no number")


def methods_in_order(answers: Iterable[SettingAnswer], others: Iterable[str]) -> list[str]:
    """One order for the whole page: by the largest speed-up anywhere, the fastest first; vanilla
    among them, methods without one last."""
    best: dict[str, float] = {}
    for answer in answers:
        for row in answer.rows:
            best[row.method] = max(best.get(row.method, 0.0), row.ratio or 0.0)
    for name in others:
        best.setdefault(name, 0.0)
    return sorted(best, key=lambda name: -best[name])


def told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """With titles of their own: those of several machines, dates or models say which."""
    titles = [entry.title for entry in entries]
    named = []
    for entry in entries:
        if titles.count(entry.title) > 1:
            differing = _differing(entry, [e for e in entries if e.title == entry.title])
            entry = replace(entry, title=", ".join([entry.title, *differing]))
        named.append(entry)
    return _numbered(named)


def _differing(entry: Entry, others: Sequence[Entry]) -> list[str]:
    """What of its facets is not that of all of them."""
    found = []
    for name in FACETS:
        values = {other.facets.get(name, "") for other in others}
        if len(values) > 1 and entry.facets.get(name):
            found.append(entry.facets[name])
    return found


def _numbered(entries: Sequence[Entry]) -> list[Entry]:
    """Where that was not enough."""
    seen: dict[str, int] = {}
    named = []
    for entry in entries:
        count = seen[entry.title] = seen.get(entry.title, 0) + 1
        if count > 1:
            entry = replace(entry, title=f"{entry.title} ({count})")
        named.append(entry)
    return named
