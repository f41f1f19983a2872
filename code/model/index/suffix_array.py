"""A memory-mapped corpus of tokens with its suffix array: where does a sequence occur, and what
follows it?

One file: a magic line, a JSON header line padded to 4,096 bytes, the tokens as big-endian uint32
(so that comparing bytes compares token sequences), then the suffix array as little-endian uint32 or
uint64. Documents are closed by the separator 2**32 - 1, over which no continuation runs. Opening
reads nothing but the header."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"spectts-bench datastore 1\n"
HEADER_BYTES = 4096
SEPARATOR = 2**32 - 1


@dataclass(frozen=True)
class Match:
    """A pattern of `length` tokens; rows `first` to `last` (excluded) begin with it."""

    length: int
    first: int
    last: int


@dataclass(frozen=True)
class SuffixArray:
    """`header` says vocabulary size, tokenizer hash and counts; `tokens` [n] and `order` [n] are
    memory-mapped.
    """

    header: dict[str, Any]
    tokens: np.ndarray
    order: np.ndarray
    _bytes: mmap.mmap

    def range_of(self, pattern: list[int]) -> tuple[int, int]:
        """The rows of the suffix array whose suffixes begin with `pattern`: first and one past the
        last.
        """
        low = np.array(pattern, dtype=">u4").tobytes()
        first = self._bisect(low, upper=False)
        return first, self._bisect(low, upper=True, begin=first)

    def longest_match(self, context: list[int], longest: int, shortest: int) -> Match | None:
        """The longest suffix of `context`, between the two lengths, that occurs.

        A suffix of an occurring suffix occurs too, so the length is found by bisection.
        """
        low, high = shortest, min(longest, len(context))
        match = None
        while low <= high:
            middle = (low + high + 1) // 2
            first, last = self.range_of(context[-middle:])
            if first < last:
                match, low = Match(middle, first, last), middle + 1
            else:
                high = middle - 1
        return match

    def continuations(self, match: Match, length: int, most: int) -> np.ndarray:
        """What follows a match, as int64 [hits, length] in suffix-array order; -1 past a document.

        Of more than `most` hits every hits/most-th is taken.
        """
        hits = match.last - match.first
        if hits > most:
            rows = match.first + np.arange(most) * hits // most
        else:
            rows = np.arange(match.first, match.last)
        offsets = np.arange(match.length, match.length + length)
        at = self.order[rows].astype(np.int64)[:, None] + offsets
        tokens = self.tokens[np.minimum(at, len(self.tokens) - 1)].astype(np.int64)
        is_end = (tokens == SEPARATOR) | (at >= len(self.tokens))
        is_past = np.logical_or.accumulate(is_end, axis=1)
        return np.where(is_past, -1, tokens)

    def documents(self, most: int) -> Iterator[list[int]]:
        """The documents in order, until `most` tokens are taken."""
        tokens = self.tokens[:most].astype(np.int64)
        ends = np.flatnonzero(tokens == SEPARATOR)
        for start, end in zip([0, *(ends + 1)], [*ends, len(tokens)]):
            if end > start:
                yield tokens[start:end].tolist()

    def _bisect(self, pattern: bytes, upper: bool, begin: int = 0) -> int:
        low, high, width = begin, len(self.order), len(pattern)
        data, order = self._bytes, self.order
        while low < high:
            middle = (low + high) // 2
            at = HEADER_BYTES + 4 * int(order[middle])
            piece = data[at : min(at + width, self._tokens_end)]
            if piece < pattern or (upper and piece == pattern):
                low = middle + 1
            else:
                high = middle
        return low

    @property
    def _tokens_end(self) -> int:
        return HEADER_BYTES + 4 * len(self.tokens)


def build(file: Path, documents: Iterable[list[int]], header: dict[str, Any]) -> None:
    """Write a datastore; the suffix array comes from libdivsufsort over the tokens' big-endian
    bytes.
    """
    from pydivsufsort import divsufsort

    pieces = [np.array([*document, SEPARATOR], dtype=np.uint32) for document in documents]
    tokens = np.concatenate(pieces).astype(">u4")
    order = divsufsort(tokens.tobytes())
    order = order[order % 4 == 0] // 4
    kind = "<u4" if len(tokens) < 2**32 else "<u8"
    head = json.dumps(
        {**header, "tokens": len(tokens), "documents": len(pieces), "order": kind}
    ).encode()
    if len(MAGIC) + len(head) + 1 > HEADER_BYTES:
        raise ValueError("the datastore's header is too long")
    part = file.with_name(file.name + ".part")
    with open(part, "wb") as out:
        out.write((MAGIC + head + b"\n").ljust(HEADER_BYTES, b" "))
        out.write(tokens.tobytes())
        out.write(order.astype(kind).tobytes())
    part.replace(file)


def open_file(file: Path) -> SuffixArray:
    """Open a datastore; ValueError where it is none, or cut short."""
    with open(file, "rb") as handle:
        if handle.read(len(MAGIC)) != MAGIC:
            raise ValueError("no datastore of this format")
        header = json.loads(handle.readline())
        data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    n, kind = header["tokens"], np.dtype(header["order"])
    if len(data) != HEADER_BYTES + n * (4 + kind.itemsize):
        raise ValueError("the file is cut short")
    tokens = np.frombuffer(data, ">u4", n, HEADER_BYTES)
    return SuffixArray(header, tokens, np.frombuffer(data, kind, n, HEADER_BYTES + 4 * n), data)
