"""The report's page: tables, figures and the trace viewer in one HTML file that needs nothing else.

The page itself is the template `templates/page.html.j2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from evaluation.report.answers import ShownAnswer
from evaluation.report.formatting import Table


@dataclass(frozen=True)
class Caption:
    """A figure's heading and what it shows."""

    heading: str
    text: str


CAPTIONS = {
    "speed": Caption(
        "Speed-up",
        "Tokens per second over vanilla's on the same questions;"
        " bars are 95 % intervals over questions.",
    ),
    "cost": Caption(
        "Tokens a step against the cost of a step",
        "Speed-up is MAT / cost: equal speed-ups lie on the dashed lines.",
    ),
    "radar": Caption(
        "Speed-up by category",
        "One spoke a category of questions; the outer ring is the largest speed-up.",
    ),
    "position": Caption(
        "Acceptance by draft position",
        "Of the drafts of at least d nodes: the share accepted up to d.",
    ),
    "generation": Caption(
        "Acceptance by round or sample",
        "What remembering earlier generations of a question is worth.",
    ),
    "time": Caption(
        "Where time goes",
        "Milliseconds a step, the prefill spread over the steps; other is the loop around.",
    ),
    "recurrence": Caption(
        "Redundancy",
        "Share of n-grams written before: in the same text, in other samples, in earlier rounds.",
    ),
    "matches": Caption(
        "Longest earlier match",
        "How much of the text so far repeats what came before, token by token.",
    ),
    "replay_mat": Caption(
        "Replays: acceptance and its bounds",
        "Mean accepted tokens on recorded texts, with 95 % over questions; lines are what copying"
        " the best earlier occurrence, and the best of the methods at every step, would reach.",
    ),
    "replay_nodes": Caption(
        "Replays: acceptance against nodes", "What the nodes that a step verifies bring."
    ),
    "replay_samples": Caption(
        "Replays: acceptance by sample", "What remembering the question's earlier samples brings."
    ),
    "replay_places": Caption(
        "Replays: along the thought", "Mean accepted tokens by output position."
    ),
    "parallel-speed-up": Caption(
        "Speed-up against samples decoded together",
        "Over vanilla with as many together. Hollow: not faster, drafting does not pay.",
    ),
    "parallel-tokens": Caption(
        "Tokens a second against samples decoded together", "Of all samples under way."
    ),
    "parallel-cost": Caption(
        "Cost of a right answer against samples decoded together",
        "Seconds of all samples over right answers.",
    ),
    "accuracy": Caption("Accuracy", "Lossless methods keep vanilla's accuracy exactly."),
}


def render(
    title: str,
    subtitle: str,
    answers: Sequence[ShownAnswer],
    tables: Mapping[str, Sequence[Table]],
    figures: Mapping[str, str],
    viewer: Mapping[str, Any],
    notices: Sequence[str],
    definitions: str,
) -> str:
    """The whole page.

    `subtitle` says what was run in a line, `answers` who is fastest, a setting each. `tables` are
    by the setting's title, `figures` SVG text by name, `viewer` the viewer's data.
    """
    environment = Environment(
        loader=PackageLoader("evaluation.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # and unsorted
    package = files("evaluation.report")
    return environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        answers=answers,
        tables=tables,
        figures=figures,
        captions=CAPTIONS,
        viewer=viewer,
        notices=notices,
        definitions=definitions,
        style=package.joinpath("style.css").read_text(encoding="utf-8"),
        script=package.joinpath("viewer.js").read_text(encoding="utf-8"),
    )
