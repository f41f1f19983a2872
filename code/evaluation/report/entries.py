"""What the page shows of a setting, a replay or an audit, and the file that keeps it: from it the
same page can be made again, elsewhere and over several machines.

`entries.json` holds numbers, tables and charts; no text that a model wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluation.analysis.answer import AnswerRow, Badge, SettingAnswer
from evaluation.records.writer import write_atomically
from evaluation.report.charts import Chart
from evaluation.report.formatting import Table
from model.errors import UserError

FILE = "entries.json"
SCHEMA = 1
FACETS = ("model", "machine", "setting", "together", "origin", "date")
"""What the page lets one choose by."""


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
        answer = data["answer"]
        return cls(
            title=str(data["title"]),
            facets={name: str(value) for name, value in data["facets"].items() if name in FACETS},
            answer=_answer_of_json(answer) if answer else None,
            charts=tuple(Chart.of_json(chart) for chart in data["charts"]),
            tables=tuple(Table(**table) for table in data["tables"]),
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
    for row in data["rows"]:
        badges = tuple(Badge(**badge) for badge in row["badges"])
        rows.append(AnswerRow(**{**row, "badges": badges}))
    return SettingAnswer(data["title"], data["sentence"], tuple(rows))


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
        data = json.loads(file.read_text(encoding="utf-8"))
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
            title=str(data["title"]),
            subtitle=str(data["subtitle"]),
            entries=tuple(Entry.of_json(entry) for entry in data["entries"]),
            notices=tuple(map(str, data["notices"])),
            definitions=str(data["definitions"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error!r}); {remedy}") from None


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
