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

    With `notices` a half-written last line, as a killed run leaves it, is left out and noted there.
    Raises UserError for a file that cannot be read and for any other line that is no JSON object.
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
            if number == len(lines) and notices is not None:
                notices.append(
                    f"{path}: the last line is half-written (a killed run); it is left out"
                )
                return
            reason = getattr(error, "msg", error)
            cut = ", the file may be cut short" if number == len(lines) else ""
            raise UserError(f"{where}: not JSON ({reason}{cut})") from None
        except RecursionError:
            raise UserError(f"{where}: nested too deeply") from None
        if not isinstance(data, dict):
            raise UserError(f"{where}: a JSON object is expected, not a {type(data).__name__}")
        yield where, data


def read_records(path: Path, notices: list[str] | None = None) -> list[Record]:
    """All records of a file in order."""
    return [parse_record(data, where) for where, data in json_lines(path, notices)]
