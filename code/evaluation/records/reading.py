"""Reading JSON lines, and files of records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluation.records.schema import Record, parse_record
from model.errors import UserError


def json_lines(
    path: Path, notices: list[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) for every line; `where` names file and line.

    A half-written last line is left out and noted in `notices`. Raises UserError for a file that
    cannot be read and for any other line that is no JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            data = json.loads(line)
        except ValueError as error:  # not JSON, or not UTF-8: a kill may cut inside a character
            if number == len(lines):
                if notices is not None:
                    notices.append(
                        f"{path}: the last line is half-written (a killed run); it is left out"
                    )
                return
            raise UserError(f"{where}: not JSON ({getattr(error, 'msg', error)})") from None
        if not isinstance(data, dict):
            raise UserError(f"{where}: a JSON object is expected, not a {type(data).__name__}")
        yield where, data


def read_records(path: Path, notices: list[str] | None = None) -> list[Record]:
    """All records of a file in order."""
    return [parse_record(data, where) for where, data in json_lines(path, notices)]
