"""The mini family's question file: test-split problems, categories in turn, with their seed."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from training.problems import draw, kinds_by_category


def write_questions(file: Path, seed: int, per_category: int = 20) -> None:
    """`per_category` distinct questions of every category.

    They are interleaved, so that any prefix covers all categories.
    """
    rng = Random(f"{seed}/questions")
    categories = sorted(kinds_by_category())
    seen: set[str] = set()
    lines: list[str] = []
    while len(lines) < per_category * len(categories):
        category = categories[len(lines) % len(categories)]
        _, problem = draw(rng, "test", category)
        if problem.question in seen:
            continue
        seen.add(problem.question)
        question = {
            "question_id": len(lines) + 1,
            "category": category,
            "turns": [problem.question],
            "answer": problem.answer,
            "kind": problem.kind,
            "seed": seed,
        }
        lines.append(json.dumps(question))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
