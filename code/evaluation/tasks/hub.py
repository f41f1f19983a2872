"""Reading a dataset from the Hugging Face hub at a pinned revision.

Or from the file a user put in its place.
Not a task itself: the task files say which dataset, and how a row becomes a question.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evaluation.tasks import Question, jsonl
from model.errors import UserError, first_line
from model.paths import DATA

SAYS_NO_ACCESS = ("gated", "401", "403", "authenticated", "token")
"""One of these is in what the hub says to a user who has not accepted a dataset's terms."""


@dataclass(frozen=True)
class HubDataset:
    """Where a dataset lives."""

    task: str
    repository: str
    revision: str
    split: str
    published: int
    """How many of its first questions the published benchmark used."""
    config: str | None = None
    gated: bool = False


def questions(
    dataset: HubDataset, row: Callable[[int, dict[str, Any]], Question], subset: str
) -> list[Question]:
    """`data/TASK/questions.jsonl` where it exists, else the hub's rows.

    The datasets library keeps those in its cache.
    """
    local = DATA / dataset.task / "questions.jsonl"
    if local.exists():
        every = jsonl.questions(local)
    else:
        every = [row(i, data) for i, data in enumerate(_rows(dataset, str(local)))]
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
        why = first_line(error, most=200)
        is_refused = any(word in why.lower() for word in SAYS_NO_ACCESS)
        if dataset.gated and is_refused:
            raise UserError(
                f"{dataset.repository} is gated: accept its terms on the hub, then run"
                f" `hf auth login` with your own token; {where}"
            ) from None
        raise UserError(f"cannot fetch {dataset.repository} ({why}); {where}") from None
