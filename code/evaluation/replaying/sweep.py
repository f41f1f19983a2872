"""A grid of option values, replayed setting by setting, and the choice among them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from evaluation.analysis.price import Costs
from evaluation.analysis.replay_summary import ReplaySummary
from evaluation.analysis.replays import MethodTally, Steps, mat, price
from evaluation.replaying.plan import Variant
from evaluation.report.formatting import Table, number
from evaluation.report.replay_figures import Point
from evaluation.running.options import Option
from model import methods
from model.errors import UserError

MOST_SETTINGS = 500


@dataclass(frozen=True)
class Choice:
    """What a sweep found: every setting, and how the best did."""

    points: list[Point]
    """On the questions that were chosen on."""
    held_out: list[Point]
    """The best ones on the others; empty where none were held out."""
    by_mat: Point
    by_price: Point | None

    def tables(self) -> list[Table]:
        ordered = sorted(self.points, key=lambda point: -point.worth)
        found = [_table("Settings, best first", ordered)]
        if self.held_out:
            found.append(_table("The chosen settings on the held-out questions", self.held_out))
        return found

    def verdict(self) -> str:
        """In words, and on what it was chosen."""
        text = f"best by MAT: {self.by_mat.label}"
        if self.by_price:
            text += f"; by predicted speed-up: {self.by_price.label}"
        if self.held_out:
            return f"{text} (chosen on some questions, judged on the held-out ones)"
        return f"{text} (chosen on these very traces: --hold-out 0.3 tells what that flatters)"


@dataclass(frozen=True)
class Grid:
    """The settings."""

    variants: tuple[Variant, ...]

    def check(self, questions: int, hold_out: float) -> None:
        """Raise UserError where too few questions are left to choose on."""
        if held_out(questions, hold_out) >= questions:
            raise UserError(
                f"--hold-out {hold_out:g} of {questions} question(s) leaves none to choose on"
            )

    def choose(self, summary: ReplaySummary, costs: Costs | None, hold_out: float) -> Choice:
        """The best of them."""
        questions = sorted(_questions(summary), key=_shuffled)
        count = held_out(len(questions), hold_out)
        held, chosen_on = set(questions[:count]), set(questions[count:])
        points = self._points(summary, costs, chosen_on)
        by_mat = max(points, key=lambda point: point.mat)
        priced = [point for point in points if point.price is not None]
        by_price = max(priced, key=lambda point: point.price or 0.0) if priced else None
        judged = []
        if held:
            best = {by_mat.label} | ({by_price.label} if by_price else set())
            judged = [p for p in self._points(summary, costs, held) if p.label in best]
        return Choice(points, judged, by_mat, by_price)

    def _points(
        self, summary: ReplaySummary, costs: Costs | None, questions: set[str]
    ) -> list[Point]:
        return [
            _point(variant, summary.methods[variant.label].tally.on(questions), costs)
            for variant in self.variants
        ]


def held_out(questions: int, share: float) -> int:
    """How many questions are held out."""
    return max(1, round(share * questions)) if share else 0


def parse_grid(words: Sequence[str], variants: Sequence[Variant]) -> Grid:
    """`sam_nodes=8,16 sam_alpha=1,2`: every method with every combination of its own options.

    Raises UserError for an option that no method has, and for values of another type.
    """
    values: dict[str, list[str]] = {}
    for word in words:
        name, equals, listed = word.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if not equals or not all(listed.split(",")):
            raise UserError(f"--sweep {word}: OPTION=VALUE,VALUE is expected, as sam_nodes=8,16")
        if name in values or len(set(listed.split(","))) < len(listed.split(",")):
            raise UserError(f"--sweep {word}: an option or a value is named twice")
        values[name] = listed.split(",")
    settings: list[Variant] = []
    used: set[str] = set()
    for variant in variants:
        options = _options(variant.method)
        own = [name for name in values if name in options]
        used |= set(own)
        typed = [[_typed(options[name], text) for text in values[name]] for name in own]
        for combination in itertools.product(*typed):
            changed = dict(zip(own, combination, strict=True))
            settings.append(_setting(variant, changed))
    if unused := set(values) - used:
        known = sorted(set().union(*(_options(v.method) for v in variants)))
        raise UserError(
            f"--sweep: no method here has an option {', '.join(sorted(unused))};"
            f" there are: {', '.join(known)}"
        )
    if len(settings) > MOST_SETTINGS:
        raise UserError(f"--sweep: {len(settings)} settings; at most {MOST_SETTINGS} are replayed")
    return Grid(tuple(settings))


def _setting(variant: Variant, changed: dict[str, Any]) -> Variant:
    if not changed:
        return variant
    described = ", ".join(f"{name} {value}" for name, value in changed.items())
    options = {**variant.options, **changed}
    methods.configure(variant.method, options)  # refuses what the method refuses
    return replace(variant, label=f"{variant.method} ({described})", options=options)


def _options(method: str) -> dict[str, Option]:
    """The options of a method by name."""
    found = {}
    for owner in methods.config_types(method):
        for field in fields(owner):
            found[field.name] = Option(owner, field)
    return found


def _typed(option: Option, text: str) -> Any:
    try:
        if option.is_switch:
            return {"true": True, "false": False}[text.lower()]
        return option.value(text)
    except (ValueError, KeyError):
        kind = type(option.field.default).__name__
        raise UserError(f"--sweep {option.field.name}: '{text}' is no {kind}") from None


def _point(variant: Variant, tally: MethodTally, costs: Costs | None) -> Point:
    questions = tally.of_questions()
    found = mat(questions)
    steps = Steps.sum_of(questions)
    predicted = price(questions, costs.of) if costs else None
    return Point(
        label=variant.label,
        method=variant.method,
        nodes=1 + steps.nodes / max(1, steps.steps),
        mat=found.mean,
        low=found.low,
        high=found.high,
        price=predicted[0] if predicted else None,
    )


def _table(title: str, points: Sequence[Point]) -> Table:
    header = ("setting", "MAT", "95 %", "nodes a step", "predicted speed-up")
    rows = []
    for point in points:
        bounds = f"[{number(point.low)}, {number(point.high)}]"
        cells = [number(point.mat, 3), bounds, number(point.nodes, 1), number(point.price, 3)]
        rows.append([point.label, *cells])
    return Table(title, header, rows)


def _questions(summary: ReplaySummary) -> set[str]:
    found: set[str] = set()
    for method in summary.methods.values():
        found |= set(method.tally.questions)
    return found


def _shuffled(question: str) -> bytes:
    """An order that has nothing to do with the questions' own, the same every time."""
    return hashlib.sha256(question.encode()).digest()
