"""The record of one generation, and reading files of them.

One JSON line a generation; a failed generation has `finish_reason` "failed", its error, and no numbers. This module
and what builds on it (`metrics`, `speed`, `report`) read files only: no torch, no models.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from model.errors import UserError

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """One generation. Times in seconds, memory in bytes; lists have one entry a step (a target forward)."""

    question_id: str
    category: str
    paradigm: str
    choice: int
    sample: int
    round: int
    seed: int
    method: str
    temperature: float
    memory_scope: str
    model_id: str
    answer_id: str
    prompt_tokens: int
    prompt_hash: str
    finish_reason: str
    """'stop', 'length' or 'failed'."""
    output_ids: list[int]
    text: str
    new_tokens: int | None
    forced_tokens: int | None
    accept_lengths: list[int]
    """Tokens emitted a step, the bonus included: vanilla's are all 1. The first token comes from the prefill."""
    draft_lengths: list[int]
    """Candidate nodes drafted a step, the root not counted."""
    draft_source: list[list[Any]]
    """Who drafted, run-length coded: [["sam", 3], ["none", 1], ...]."""
    prefill_time: float | None
    wall_time: float | None
    draft_time: float | None
    verify_time: float | None
    accept_time: float | None
    other_time: float | None
    peak_memory: int | None
    energy: float | None
    """Joules of the GPU's board while it ran, where NVML tells; None elsewhere."""
    error: str
    tstamp: float
    shared: bool
    """Another run used the same GPU or cores meanwhile: the times are not comparable."""
    schema: int = SCHEMA

    @property
    def failed(self) -> bool:
        return self.finish_reason == "failed"

    @property
    def final(self) -> bool:
        """Not to be tried again on resume: everything but a failure that may have been the machine's."""
        return not self.failed or self.error.startswith(("worker died", "context:"))

    @property
    def key(self) -> tuple[str, int, int, int]:
        """Which generation of the run this is."""
        return self.question_id, self.choice, self.sample, self.round

    def line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def run_lengths(items: Iterable[str]) -> list[list[Any]]:
    """['a', 'a', 'b'] -> [['a', 2], ['b', 1]]."""
    coded: list[list[Any]] = []
    for item in items:
        if coded and coded[-1][0] == item:
            coded[-1][1] += 1
        else:
            coded.append([item, 1])
    return coded


_MEASURED = ("new_tokens", "forced_tokens", "prefill_time", "wall_time", "draft_time", "verify_time", "accept_time", "other_time")
_LISTS = ("output_ids", "accept_lengths", "draft_lengths", "draft_source")
_NAMES = {f.name for f in fields(Record)}


def parse_record(data: dict[str, Any], where: str) -> Record:
    """A record from its JSON object; `where` names file and line for the error."""
    if data.get("schema") != SCHEMA:
        raise UserError(f"{where}: record schema {data.get('schema')!r} is unknown; this version reads schema {SCHEMA}")
    if set(data) != _NAMES:
        odd = ", ".join(sorted(set(data) ^ _NAMES))
        raise UserError(f"{where}: not a record of schema {SCHEMA}: missing or unknown fields: {odd}")
    record = Record(**data)
    if not record.failed:
        _check_numbers(record, where)
    return record


def _check_numbers(record: Record, where: str) -> None:
    """What numbers are made from must be numbers, in an order that a generation can have."""
    wrong = [name for name in _MEASURED if not isinstance(getattr(record, name), int | float) or getattr(record, name) < 0]
    wrong += [name for name in _LISTS if not isinstance(getattr(record, name), list)]
    if not wrong and record.wall_time == 0:
        wrong = ["wall_time"]
    if wrong:
        raise UserError(f"{where}: {', '.join(wrong)} of a finished generation must be numbers above 0, or lists")


def json_lines(path: Path, notices: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) for every line; a half-written last line is left out and said in `notices`."""
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
                    notices.append(f"{path}: the last line is half-written (a killed run); it is left out")
                return
            raise UserError(f"{where}: not JSON ({getattr(error, 'msg', error)})") from None
        if not isinstance(data, dict):
            raise UserError(f"{where}: a JSON object is expected, found {type(data).__name__}")
        yield where, data


def read_records(path: Path, notices: list[str] | None = None) -> list[Record]:
    """All records of a file in order."""
    return [parse_record(data, where) for where, data in json_lines(path, notices)]


def main() -> int:
    """`python -m evaluation.records export FILE --out FILE`: write records in the published benchmark's trace format."""
    import argparse

    from evaluation.legacy import to_legacy

    parser = argparse.ArgumentParser(description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="records to the published trace format")
    export.add_argument("file", type=Path)
    export.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in to_legacy(read_records(args.file))]
    try:
        args.out.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {args.out}: {error.strerror}") from None
    print(f"{args.out}: {len(lines)} questions")
    return 0


if __name__ == "__main__":
    from evaluation.errors import guarded

    guarded(main)()
