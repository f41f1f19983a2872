"""The trace viewer's data: texts token by token, and each method's steps over them.

Lossless methods share their texts, so a text is stored once and a method adds its steps: [source, tokens emitted].
"""

from pathlib import Path
from typing import Any

from evaluation.acceptance import sources
from evaluation.records import Record
from evaluation.report.data import Setting

TOKEN_BUDGET = 300_000  # tokens of text embedded: the page stays near 3 MB


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
    """{"sources": [...], "texts": [{title, tokens, methods: {name: {steps, same}}}]} within the token budget."""
    decode, names, texts, spent = pieces_of(settings), [], [], 0
    left_out = 0
    for setting in settings:
        first = setting.vanilla or setting.methods[0]
        others = {m.name: {r.key: r for r in m.records} for m in setting.methods}
        for record in first.records:
            if spent + len(record.output_ids) > TOKEN_BUDGET:
                left_out += 1
                continue
            spent += len(record.output_ids)
            methods = {}
            for name, records in others.items():
                mine = records.get(record.key)
                if mine is not None:
                    same = mine.output_ids == record.output_ids
                    methods[name] = {"steps": steps_of(mine, names), **({} if same else {"tokens": decode(mine.output_ids)})}
            which = f"sample {record.sample + 1}" if setting.paradigm == "best_of_n" else f"round {record.round + 1}"
            texts.append({"setting": setting.title, "title": f"question {record.question_id}, {which}",
                          "tokens": decode(record.output_ids), "methods": methods})
    if left_out:
        notices.append(f"the trace viewer holds {len(texts)} generations; {left_out} more would make the page too large")
    return {"sources": names, "texts": texts}
