"""What `gpu.py` measured: printed as it comes, and saved as JSON and Markdown after every part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from evaluation.report.formatting import Table

LONGEST_MESSAGE = 300


@dataclass
class Report:
    """Numbers for programs, lines for people."""

    out: Path
    """The files are OUT.json and OUT.md."""
    begun: float
    data: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        """Seconds since the program began."""
        return perf_counter() - self.begun

    def say(self, line: str) -> None:
        print(f"[{self.elapsed:4.0f} s] {line}", flush=True)
        self.lines.append(line)
        self.save()

    def attempt(self, name: str, part: Callable[[], None], left: float, needed: float) -> None:
        """Do a part if the seconds left suffice.

        What goes wrong is said and does not end the others.
        """
        if left < needed:
            self.say(f"left out for want of time: {name}")
            return
        try:
            part()
        except Exception as error:  # each part is worth having without the others
            kind = type(error).__name__
            self.data[f"failed: {name}"] = f"{kind}: {error}"
            self.say(f"FAILED: {name}: {kind}: {str(error)[:LONGEST_MESSAGE]}")

    def table(self, table: Table) -> None:
        self.data[table.title] = {"header": table.header, "rows": table.rows}
        self.lines += ["", f"### {table.title}", "", table.text("markdown"), ""]
        print(f"\n{table.title}\n{table.text()}", flush=True)
        self.save()

    def save(self) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.data, indent=1) + "\n"
        self.out.with_suffix(".json").write_text(text, encoding="utf-8")
        self.out.with_suffix(".md").write_text("\n".join(self.lines) + "\n", encoding="utf-8")
