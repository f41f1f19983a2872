"""Drafts that need forwards of a model of their own, side by side: one forward a level for all.

A drafter with a model writes its draft as a generator, which yields every forward it needs and is
sent what it yields. Drafts alone and together are the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class DraftForward:
    """A forward in the middle of a draft.

    `run` takes the inputs of several and returns what each yields; those of equal `run` and `kind`
    run as one.
    """

    inputs: Any
    run: Callable[[list[Any]], list[Any]]
    kind: Hashable = None


Drafting = Generator[DraftForward, Any, T]
"""A draft under way."""


def alone(drafting: Drafting[T]) -> T:
    """Go through with one, every forward by itself."""
    (done,) = drafted([drafting])
    return done


def drafted(draftings: Sequence[Drafting[T]]) -> list[T]:
    """Go through with all of them, side by side."""
    asked: dict[int, DraftForward] = {}
    done: dict[int, T] = {}

    def go_on(number: int, result: Any) -> None:
        try:
            asked[number] = draftings[number].send(result)
        except StopIteration as end:
            done[number] = end.value

    for number in range(len(draftings)):
        go_on(number, None)
    while asked:
        for numbers in _groups(asked):
            forwards = [asked.pop(number) for number in numbers]
            results = forwards[0].run([forward.inputs for forward in forwards])
            # what a forward yields may be valid until the next one only
            for number, result in zip(numbers, results, strict=True):
                go_on(number, result)
    return [done[number] for number in range(len(draftings))]


def _groups(asked: dict[int, DraftForward]) -> list[list[int]]:
    """Whose forwards run as one."""
    groups: dict[Hashable, list[int]] = {}
    for number, forward in asked.items():
        groups.setdefault((forward.run, forward.kind), []).append(number)
    return list(groups.values())
