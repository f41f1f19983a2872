"""Audits of servers, as `evaluation.audit` wrote them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError

AUDIT_FILE = "audit.json"


@dataclass(frozen=True)
class AuditFile:
    """One audit: of what, and its lines (check, verdict, what was found)."""

    title: str
    lines: tuple[tuple[str, str, str], ...]


def find_audits(folder: Path) -> list[AuditFile]:
    """Every audit below a folder; raises UserError for one that is damaged."""
    audits = []
    for file in sorted(folder.rglob(AUDIT_FILE)):
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            title = f"audit of {data['server']} against {data['against']}"
            lines = [(f["check"], f["verdict"], f["detail"]) for f in data["findings"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}); run evaluation.audit again") from None
        audits.append(AuditFile(title, tuple(lines)))
    return audits
