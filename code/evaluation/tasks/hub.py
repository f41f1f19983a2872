"""Reading a dataset from the Hugging Face hub at a pinned revision, or from the file a user put in
its place.

Not a task itself: the task files say which dataset, and how a row becomes a question.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evaluation.tasks import Question, jsonl
from model.errors import UserError
from model.paths import DATA


@dataclass(frozen=True)
class HubDataset:
    """Where a dataset lives; `published` is how many of its first questions the published benchmark
    used.
    """

    task: str
    repository: str
    revision: str
    split: str
    published: int
    config: str | None = None
    gated: bool = False


def questions(
    dataset: HubDataset, row: Callable[[int, dict[str, Any]], Question], subset: str
) -> list[Question]:
    """`data/TASK/questions.jsonl` where it exists, else the hub's rows, cached by the datasets
    library.
    """
    local = DATA / dataset.task / "questions.jsonl"
    every = (
        jsonl.questions(local)
        if local.exists()
        else [row(i, r) for i, r in enumerate(_rows(dataset, str(local)))]
    )
    if subset not in ("all", "published"):
        raise UserError(
            f"--subset is 'all' or 'published' (the first {dataset.published}), not '{subset}'"
        )
    return every[: dataset.published] if subset == "published" else every


def _rows(dataset: HubDataset, local: str) -> list[dict[str, Any]]:
    where = f"or put the questions into {local} (JSON lines with question_id, turns, answer)"
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(
            f"reading {dataset.repository} needs the datasets library: pip install -e 'code[hub]';"
            f" {where}"
        ) from None
    try:
        return list(
            load_dataset(
                dataset.repository, dataset.config, split=dataset.split, revision=dataset.revision
            )
        )
    except Exception as error:  # the library raises its own, the hub's, and the network's
        why = str(error).strip().split("\n")[0][:200] or type(error).__name__
        if dataset.gated and any(
            word in why.lower() for word in ("gated", "401", "403", "authenticated", "token")
        ):
            raise UserError(
                f"{dataset.repository} is gated: accept its terms on the hub, then run `hf auth"
                " login` with"
                f" your own token; {where}"
            ) from None
        raise UserError(f"cannot fetch {dataset.repository} ({why}); {where}") from None
