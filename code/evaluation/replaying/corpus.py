"""Files of traces by question, read twice so that memory does not grow with them.

The first pass keeps only where each generation stands; the second reads a question's generations
when it is its turn.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from evaluation.replaying.formats import ReadOptions, format_of, records
from evaluation.replaying.trace import Trace
from model.errors import UserError


@dataclass(frozen=True)
class Place:
    """Where a generation stands, and which of its question it is."""

    file: int
    offset: int
    length: int
    """Bytes of the line."""
    line: int
    item: int
    """Of the line's generations."""
    choice: int
    sample: int
    round: int

    @property
    def order(self) -> tuple[int, int, int]:
        return self.choice, self.sample, self.round


@dataclass(frozen=True)
class Corpus:
    """The generations of some files by question, in the order in which questions first appear."""

    files: tuple[Path, ...]
    options: ReadOptions
    formats: tuple[str, ...]
    """The format of every file, by its module's name."""
    questions: dict[str, tuple[Place, ...]]
    has_rounds: bool

    @property
    def generations(self) -> int:
        return sum(len(places) for places in self.questions.values())

    def load(self, question: str) -> list[Trace]:
        """The question's generations, by choice, sample and round."""
        traces = []
        for place in self.questions[question]:
            path = self.files[place.file]
            with open(path, "rb") as file:
                file.seek(place.offset)
                line = file.read(place.length)
            where = f"{path}, line {place.line}"
            read = self._reader(place.file).read(json.loads(line), where, self.options)
            trace = read[place.item]
            traces.append(
                replace(trace, question_id=question, sample=place.sample, round=place.round)
            )
        return traces

    def _reader(self, file: int) -> Any:
        return importlib.import_module(self.formats[file])

    def only(self, questions: Sequence[str]) -> Corpus:
        """Of these questions."""
        return replace(self, questions={name: self.questions[name] for name in questions})


def found_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the *.jsonl of the folders named; UserError where there is none."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob("*.jsonl"))
            if not inside:
                raise UserError(f"{path} holds no *.jsonl file; give files or folders of traces")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{path} does not exist; give files or folders of traces (JSON lines)")
    seen: set[Path] = set()
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is no file that can be read twice; save it to a disk first")
        if file.resolve() in seen:
            raise UserError(f"{file} is given twice")
        seen.add(file.resolve())
    return files


def file_names(files: Sequence[Path]) -> list[str]:
    """What tells files apart in questions' names: their stems, or where these repeat their
    folders too."""
    stems = [file.stem for file in files]
    if len(set(stems)) == len(stems):
        return stems
    return [str(file.with_suffix("")) for file in files]


def index(
    paths: Sequence[Path], options: ReadOptions, samples: int | None, skip_bad: bool
) -> tuple[Corpus, list[str]]:
    """The corpus of these files, and what a reader should know of it.

    At most `samples` generations of a question's round are kept (None: all). Raises UserError for
    a malformed line, by its number, unless `skip_bad`, and where no generation is left.
    """
    indexer = _Indexer(tuple(found_files(paths)), options, skip_bad)
    for number, path in enumerate(indexer.files):
        indexer.read(number, path)
    return indexer.corpus(samples), indexer.notices


class _Indexer:
    """The first pass."""

    def __init__(self, files: tuple[Path, ...], options: ReadOptions, skip_bad: bool) -> None:
        self.files = files
        self.notices: list[str] = []
        self._options = options
        self._skip_bad = skip_bad
        self._formats: list[str] = []
        self._names = file_names(files)
        self._places: dict[str, list[Place]] = defaultdict(list)
        self._keys: set[tuple[str, int, int, int]] = set()

    def read(self, number: int, path: Path) -> None:
        """Index one file."""
        bad = 0
        reader: ModuleType | None = None
        for line, offset, raw in _lines(path):
            where = f"{path}, line {line}"
            try:
                data = _object(raw, where)
                if reader is None:
                    reader = self._format_of(data, where)
                traces = reader.read(data, where, self._options)
                for item, trace in enumerate(traces):
                    self._add(trace, Place(number, offset, len(raw), line, item, 0, 0, 0))
            except UserError:
                if not self._skip_bad:
                    raise
                bad += 1
        if reader is None:
            what = f"holds {bad} malformed lines only" if bad else "is empty"
            raise UserError(f"{path} {what}; JSON lines of traces are expected")
        self._formats.append(reader.__name__)
        if bad:
            self.notices.append(f"{path}: {bad} malformed line(s) left out")

    def corpus(self, samples: int | None) -> Corpus:
        """What was found, by question."""
        questions = {}
        for question, places in self._places.items():
            kept = [p for p in places if samples is None or p.sample < samples]
            questions[question] = tuple(sorted(kept, key=lambda place: place.order))
        if not questions:
            raise UserError(f"{', '.join(map(str, self.files))}: no finished generation in it")
        has_rounds = any(p.round for places in questions.values() for p in places)
        return Corpus(self.files, self._options, tuple(self._formats), questions, has_rounds)

    def _format_of(self, data: dict[str, Any], where: str) -> ModuleType:
        found = format_of(data, where, self._options.fields)
        if found is records and len(self.files) > 1:
            raise UserError(
                f"{where}: records are replayed one run at a time: give this one file alone"
            )
        return found

    def _add(self, trace: Trace, place: Place) -> None:
        question = trace.question_id or _prompt_id(trace)
        if trace.model:
            question = f"{question} ({trace.model})"
        if len(self.files) > 1:
            question = f"{self._names[place.file]}/{question}"
        places = self._places[question]
        sample = trace.sample
        if sample is None:
            sample = 0
            while (question, trace.choice, sample, trace.round) in self._keys:
                sample += 1
        key = (question, trace.choice, sample, trace.round)
        if key in self._keys:
            raise UserError(
                f"{trace.where}: question {question} has a sample {sample} of round"
                f" {trace.round} already; name the field that tells them apart with --sample-field"
            )
        self._keys.add(key)
        places.append(replace(place, choice=trace.choice, sample=sample, round=trace.round))


def _prompt_id(trace: Trace) -> str:
    """Names a question by its prompt."""
    asked = json.dumps(trace.prompt, sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:12]


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, line) of every line that holds something."""
    try:
        with open(path, "rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, offset, line
                offset += len(line)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise UserError(f"{where}: not JSON ({reason}); --skip-bad-lines leaves it out") from None
    if not isinstance(data, dict):
        raise UserError(f"{where}: a JSON object is expected, not a {type(data).__name__}")
    if b"\\ud" in raw or b"\\uD" in raw:
        _check_characters(data, where)
    return data


def _check_characters(data: dict[str, Any], where: str) -> None:
    """Half a surrogate pair, as a cut emoji leaves it, is no character: nothing can encode it."""
    try:
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: holds half a character (a lone surrogate, as of a cut emoji);"
            " --skip-bad-lines leaves it out"
        ) from None
