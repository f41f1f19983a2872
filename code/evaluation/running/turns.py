"""Methods taking turns: who is asked a question first, and what keeps them apart.

Each question is put to all methods, seconds apart, and who begins changes from question to
question, so that a machine that gets slower or faster meanwhile does so for all of them.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from evaluation.records.schema import Record
from evaluation.running.runner import Listener, Prefixed, Runner
from evaluation.tasks import Question

Item = TypeVar("Item")


def rotated(items: Sequence[Item], number: int) -> list[Item]:
    """The items in order, beginning with another one each time."""
    if not items:
        return []
    first = number % len(items)
    return [*items[first:], *items[:first]]


def answer(
    runner: Runner, question: Question, methods: tuple[str, ...], listen: Listener
) -> list[Record]:
    """One method's records of a question that these methods are asked in turn."""
    in_turn = methods if len(methods) > 1 else ()
    asked = replace(runner, spec=replace(runner.spec, in_turn=in_turn))
    gc.freeze()
    return asked.answer(question, listener(runner, listen))


def with_cap(runner: Runner, max_nodes: int) -> Runner:
    """The runner with another cap on its drafts."""
    method = replace(runner.spec.method, max_nodes=max_nodes)
    return replace(runner, spec=replace(runner.spec, method=method))


def listener(runner: Runner, listen: Listener) -> Listener:
    """Says which method is at work."""
    return Prefixed(listen, f"{runner.spec.method.name} ")


def collect_garbage() -> None:
    """Collect what is garbage now.

    What lives on is then frozen: Python's collector walks over all other objects, and what one
    method remembers would slow down the rest.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
