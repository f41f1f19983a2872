"""The trace viewer's data: texts token by token, and each method's steps over them.

Lossless methods share their texts, so a text is stored once and a method adds its steps: [source, tokens emitted].
"""

import json
from pathlib import Path
from typing import Any

from evaluation.acceptance import sources
from evaluation.comparison import Setting
from evaluation.plots import colour
from evaluation.records import Record

BUDGET = 1_200_000  # characters of traces embedded: with the figures a page of 2 to 3 MB, which loads in half a second


def pieces_of(settings: list[Setting]):
    """ids -> texts of single tokens, by the run's own tokenizer file, or numbers where it is not at hand."""
    folder = next((m.runs[0].manifest.get("model_folder") for s in settings for m in s.methods), None)
    file = Path(folder or "") / "tokenizer.json"
    if folder and not file.exists():
        file = _cached(folder)
    if not file or not file.exists():
        return lambda ids: [f"{i} " for i in ids]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    known: dict[int, str] = {}

    def decode(ids: list[int]) -> list[str]:
        for i in set(ids) - set(known):
            known[i] = tokenizer.decode([i], skip_special_tokens=False)
        return [known[i] for i in ids]

    return decode


def _cached(repository: str) -> Path | None:
    """A hub model's tokenizer file in the local cache."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repository, "tokenizer.json")
        return Path(found) if isinstance(found, str) else None
    except Exception:  # no hub library, or no such name: the viewer shows ids
        return None


def steps_of(record: Record, names: list[str]) -> list[int]:
    """Flat list: source number, tokens emitted, source number, ... (the prefill's first token comes before)."""
    flat: list[int] = []
    for source, emitted in zip(sources(record), record.accept_lengths):
        if source not in names:
            names.append(source)
        flat += [names.index(source), emitted]
    return flat


def build(settings: list[Setting], notices: list[str]) -> dict[str, Any]:
    """{"sources", "colours", "texts": [{setting, title, tokens, methods: {name: {steps[, tokens]}}}]} within the budget.

    Of repeats the first is shown.
    """
    decode, names, texts, spent = pieces_of(settings), [], [], 0
    left_out = 0
    for setting in settings:
        first = setting.vanilla or setting.methods[0]
        others = {m.name: {r.key: r for r in m.texts} for m in setting.methods}
        for record in first.texts:
            if texts and spent > BUDGET:
                left_out += 1
                continue
            methods = {}
            for name, records in others.items():
                mine = records.get(record.key)
                if mine is not None:
                    same = mine.output_ids == record.output_ids
                    methods[name] = {"steps": steps_of(mine, names), **({} if same else {"tokens": decode(mine.output_ids)})}
            which = f"{setting.numbered} {getattr(record, setting.numbered) + 1}"
            repeat = f", repeat {record.choice + 1}" if record.choice else ""
            texts.append({"setting": setting.title, "title": f"question {record.question_id}, {which}{repeat}",
                          "tokens": decode(record.output_ids), "methods": methods})
            spent += len(json.dumps(texts[-1]))
    if left_out:
        notices.append(f"the trace viewer holds {len(texts)} generations; {left_out} more would make the page too large")
    return {"sources": names, "colours": [colour(n) for n in names], "texts": texts}
