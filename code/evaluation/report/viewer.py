"""The trace viewer's data: texts token by token, and each method's steps over them.

Lossless methods share their texts, so a text is stored once and a method adds its steps: source,
tokens emitted, nodes drafted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.analysis.acceptance import steps
from evaluation.analysis.comparison import Comparison
from evaluation.analysis.replay_summary import FoundReplay
from evaluation.records.drafts import unpacked_drafts
from evaluation.records.schema import Record
from evaluation.report.colours import colour
from model.errors import UserError

BUDGET = 1_200_000
"""Characters of traces embedded: with the figures a page of 2 to 3 MB, which loads in half a
second."""

MOST_REFUSED = 4
"""Continuations told of a step."""
REPLAYED = 12
"""Generations of a replay shown."""

NOTHING: dict[str, Any] = {"sources": [], "colours": [], "texts": []}
"""Of a report over exported entries: they hold no texts."""

Decode = Callable[[list[int]], list[str]]
"""Token ids to the texts of single tokens."""


class Viewer:
    """Collects texts within the budget."""

    def __init__(self, decode: Decode, settings: int = 1) -> None:
        """`settings` share the budget."""
        self._decode = decode
        self._share = BUDGET / max(1, settings)
        self._sources: list[str] = []
        self._texts: list[dict[str, Any]] = []
        self._spent = 0
        self._end_think_id: int | None = None
        self._thinking_budget: int | None = None
        self.left_out = 0

    def add(self, comparison: Comparison) -> None:
        """The generations of a setting, of repeats the first."""
        texts = {method.name: method.texts for method in comparison.methods}
        reference = comparison.reference
        self._end_think_id = reference.manifest.end_think_id
        self._thinking_budget = reference.manifest.settings.get("thinking_budget")
        self.add_texts(comparison.title, comparison.numbered, texts, reference.texts)

    def add_texts(
        self,
        title: str,
        numbered: str,
        by_method: Mapping[str, Sequence[Record]],
        reference: Sequence[Record],
    ) -> None:
        """The reference's texts, and every method's steps over them."""
        texts: dict[str, dict[tuple[str, int, int, int], Record]] = {}
        for name, of_method in by_method.items():
            texts[name] = {record.key: record for record in of_method}
        spent_before = self._spent
        for record in reference:
            spent = self._spent - spent_before
            if spent and spent > self._share:
                self.left_out += 1
                continue
            methods = {}
            knows_drafts = False
            for name, records in texts.items():
                if record.key in records:
                    methods[name] = self._trace(records[record.key], record)
                    knows_drafts = knows_drafts or records[record.key].drafts is not None
            text = {
                "setting": title,
                "title": _title(record, numbered),
                "number": getattr(record, numbered) + 1,
                "category": record.category,
                "split": self._split(record),
                "forced": self._forced(record),
                "knowsDrafts": knows_drafts,
                "tokens": self._decode(record.output_ids),
                "methods": methods,
            }
            self._texts.append(text)
            self._spent += len(json.dumps(text))

    def data(self) -> dict[str, Any]:
        """What `viewer.js` reads."""
        colours = [colour(name) for name in self._sources]
        return {"sources": self._sources, "colours": colours, "texts": self._texts}

    @property
    def texts(self) -> int:
        return len(self._texts)

    def _split(self, record: Record) -> int | None:
        """The token at which the answer begins; None where the thinking never ended."""
        if self._end_think_id not in record.output_ids:
            return None
        return record.output_ids.index(self._end_think_id) + 1

    def _forced(self, record: Record) -> list[int] | None:
        """First and last of the tokens that ended the thinking at its budget."""
        if not record.forced_tokens or self._thinking_budget is None:
            return None
        return [self._thinking_budget, self._thinking_budget + record.forced_tokens]

    def _trace(self, record: Record, reference: Record) -> dict[str, Any]:
        """A method's steps; its tokens too where the text is not the reference's."""
        trace: dict[str, Any] = {"steps": self._flat_steps(record)}
        if record.drafts:
            trace["refused"] = self._refused(record)
        if record.output_ids != reference.output_ids:
            trace["tokens"] = self._decode(record.output_ids)
        return trace

    def _flat_steps(self, record: Record) -> list[int]:
        """Source number, tokens emitted, nodes drafted, source number, ...

        The prefill's token comes before.
        """
        flat: list[int] = []
        for step in steps(record):
            if step.source not in self._sources:
                self._sources.append(step.source)
            flat += [self._sources.index(step.source), step.emitted, step.drafted]
        return flat

    def _refused(self, record: Record) -> dict[int, list[str]]:
        """By step the drafted continuations that the target refused where it went another way."""
        refused = {}
        try:
            drafts = unpacked_drafts(record.drafts or "")
        except ValueError as error:
            raise UserError(
                f"{record.method}, question {record.question_id}: the recorded drafts are damaged"
                f" ({error}); remove the record and run again"
            ) from None
        for number, (step, draft) in enumerate(zip(steps(record), drafts, strict=False), start=1):
            emitted = record.output_ids[step.at : step.at + step.emitted]
            branches = draft.refused(emitted)[:MOST_REFUSED]
            if branches:
                refused[number] = ["".join(self._decode(branch)) for branch in branches]
        return refused


def build(
    comparisons: Sequence[Comparison], replays: Sequence[FoundReplay], notices: list[str]
) -> dict[str, Any]:
    """{"sources", "colours", "texts"}; what is left out for want of room is noted in `notices`."""
    decode = token_texts(_tokenizer_folder(comparisons, replays))
    viewer = Viewer(decode, len(comparisons) + len(replays))
    for comparison in comparisons:
        viewer.add(comparison)
    for replay in replays:
        numbered = "sample" if replay.summary.paradigm == "best_of_n" else "round"
        texts = replay.first_records(REPLAYED)
        if texts:
            viewer.add_texts(replay.summary.title, numbered, texts, next(iter(texts.values())))
    if viewer.left_out:
        notices.append(
            f"the trace viewer holds {viewer.texts} generations;"
            f" {viewer.left_out} more would make the page too large"
        )
    return viewer.data()


def renamed(data: dict[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """With other titles of settings."""
    texts = []
    for text in data["texts"]:
        texts.append({**text, "setting": titles.get(text["setting"], text["setting"])})
    return {**data, "texts": texts}


def _title(record: Record, numbered: str) -> str:
    number = getattr(record, numbered) + 1
    repeat = f", repeat {record.choice + 1}" if record.choice else ""
    return f"question {record.question_id}, {numbered} {number}{repeat}"


def _tokenizer_folder(comparisons: Sequence[Comparison], replays: Sequence[FoundReplay]) -> str:
    """Of the first run, else of the first replay."""
    if comparisons:
        return comparisons[0].methods[0].manifest.model_folder
    return replays[0].tokenizer_folder if replays else ""


def token_texts(folder: str) -> Decode:
    """By the tokenizer file in a checkpoint's folder; numbers where it is not at hand."""
    file = _tokenizer_file(folder)
    if file is None:
        return lambda ids: [f"{number} " for number in ids]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    text_of: dict[int, str] = {}

    def decode(ids: list[int]) -> list[str]:
        for number in set(ids) - set(text_of):
            text_of[number] = tokenizer.decode([number], skip_special_tokens=False)
        return [text_of[number] for number in ids]

    return decode


def _tokenizer_file(folder: str) -> Path | None:
    """In the checkpoint's folder, or in the local cache of the hub; None where it is in neither."""
    if not folder:
        return None
    file = Path(folder) / "tokenizer.json"
    if file.exists():
        return file
    try:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(folder, "tokenizer.json")
    except Exception:  # no hub library, or no such name: the viewer shows numbers
        return None
    return Path(cached) if isinstance(cached, str) else None
