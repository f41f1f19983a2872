"""The mini family's question file: test-split problems, categories in turn, with the seed they were drawn from."""

import json
from pathlib import Path
from random import Random

from training.problems import draw, kinds_by_category


def write_questions(file: Path, seed: int, per_category: int = 20) -> None:
    """`per_category` distinct questions of every category, interleaved so that any prefix covers all of them."""
    rng, seen, lines = Random(f"{seed}/questions"), set(), []
    categories = sorted(kinds_by_category())
    while len(lines) < per_category * len(categories):
        category = categories[len(lines) % len(categories)]
        _, problem = draw(rng, "test", category)
        if problem.question in seen:
            continue
        seen.add(problem.question)
        lines.append(json.dumps({"question_id": len(lines) + 1, "category": category, "turns": [problem.question],
                                 "answer": problem.answer, "kind": problem.kind, "seed": seed}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
