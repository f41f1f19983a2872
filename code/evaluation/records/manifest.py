"""The manifest beside a records file: what the run's numbers depend on.

`X.manifest.json` holds the run's specification as it was run, what it was run with (versions,
device, commit), and fingerprints of model and questions. Reading is here; making one needs the
model and is `running/manifest.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluation.records.legacy import upgraded_settings
from model.errors import UserError

SCHEMA = 2


class Manifest:
    """A manifest's content; `settings` are what decides the records."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """By name, flat; method and paradigm options in dictionaries of their own."""
        if self.data.get("schema", 1) < SCHEMA:
            return upgraded_settings(self.data.get("settings", {}), self.device)
        return settings_of(self.data["spec"], self.data["fingerprints"], self.data["family"])

    @property
    def is_replay(self) -> bool:
        """Of recorded texts that drafters went along, instead of a run?"""
        return self.data.get("origin") == "replay"

    @property
    def device(self) -> str | None:
        return self.data.get("device")

    @property
    def threads(self) -> int | None:
        threads = self.data.get("threads")
        return threads if type(threads) is int and threads > 0 else None

    @property
    def questions(self) -> int | None:
        """How many the run was to answer."""
        return self.data.get("questions")

    @property
    def node_costs(self) -> dict[int, float]:
        """Vanilla steps of verifying so many nodes, as measured before the run; empty where it was
        not."""
        try:
            costs = self.data["tuned"]["costs"]
            return {int(nodes): float(cost) for nodes, cost in costs.items()}
        except (LookupError, TypeError, ValueError, AttributeError):
            return {}

    @property
    def cap_note(self) -> str:
        """How large drafts may be where that was measured; empty where it was not, or is no
        limit."""
        costs = self.node_costs
        cap = self.settings.get("max_nodes")
        if cap not in costs:
            return ""
        larger = [f"{n} cost {costs[n]:.2f}" for n in sorted(costs) if n > cap][:1]
        note = (
            f"drafts hold at most {cap} nodes: verifying them costs {costs[cap]:.2f} vanilla steps"
        )
        return f"{note} here, {larger[0]}" if larger else f"{note} here"

    @property
    def end_think(self) -> str | None:
        """The text that ends thinking, None in a family without thinking."""
        return self.data.get("end_think")

    @property
    def end_think_id(self) -> int | None:
        return self.data.get("end_think_id")

    @property
    def stop_ids(self) -> list[int] | None:
        """The tokens that end a text; None before version 0.4."""
        ids = self.data.get("stop_ids")
        is_list = isinstance(ids, list) and all(type(token) is int for token in ids)
        return ids if is_list else None

    @property
    def vocab_size(self) -> int | None:
        size = self.data.get("vocab_size")
        return size if type(size) is int and size > 0 else None

    @property
    def model_folder(self) -> str:
        """The checkpoint's folder or hub id."""
        folder = self.data.get("model_folder")
        return folder if isinstance(folder, str) else ""

    @property
    def model_name(self) -> str:
        """The checkpoint's folder or hub name, for people; of an engine, what it serves."""
        if engine := self.data.get("engine"):
            return f"{engine['model']} on {engine['name']} {engine['version']}".rstrip()
        folder = Path(self.model_folder)
        return (folder.parent if folder.name == "target" else folder).name

    @property
    def model_fingerprint(self) -> str:
        return str(self.settings.get("model", ""))

    @property
    def questions_hash(self) -> str:
        return str(self.settings.get("questions_hash", ""))

    @property
    def digest(self) -> str:
        """Names this manifest in tables."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:12] if self.data else "-"

    def deciding_settings(self) -> dict[str, str]:
        """What decides a run's records, its name aside, as text: equal for repeats of one run."""
        settings = dict(self.settings)
        settings.pop("model_id", None)
        method_options = settings.pop("options", None) or {}
        flat = {**settings, **method_options}
        return {name: str(value) for name, value in flat.items()}

    def differing(self, other: Manifest, names: tuple[str, ...] | None = None) -> list[str]:
        """The settings (of these names, or all of the other's) in which two runs differ."""
        names = tuple(other.settings) if names is None else names
        return [n for n in names if self.settings.get(n) != other.settings.get(n)]

    def text(self) -> str:
        return json.dumps(self.data, indent=1, ensure_ascii=False) + "\n"


def settings_of(
    spec: Mapping[str, Any], fingerprints: Mapping[str, str], family: str
) -> dict[str, Any]:
    """The settings that decide records, of a run's specification (nested, as in the manifest)."""
    model, questions, method = spec["model"], spec["questions"], spec["method"]
    paradigm, generation = spec["paradigm"], spec["generation"]
    options: dict[str, Any] = {}
    for config in reversed(method["configs"]):
        options.update(config)
    return {
        "method": method["name"],
        "paradigm": paradigm["name"],
        "model_id": spec["model_id"],
        "temperature": generation["temperature"],
        "max_new_tokens": generation["max_new_tokens"],
        "seed": generation["seed"],
        "num_choices": paradigm["num_choices"],
        "memory_scope": scope_text(method["memory_scope"], spec["workers"]["workers"]),
        "thinking_budget": generation["thinking_budget"],
        "max_nodes": method["max_nodes"],
        "warmup": spec["warmup"],
        "record_topk": spec.get("record_topk", 0),
        "record_drafts": spec.get("record_drafts", False),
        "parallel": spec.get("parallel", 1),
        "max_rows": spec.get("max_rows"),
        "sampling_top_k": generation["sampling_top_k"],
        "sampling_top_p": generation["sampling_top_p"],
        "engine": model["engine"],
        "options": options,
        "paradigm_options": paradigm["config"],
        "dtype": model["dtype"],
        "family": family,
        "bench": questions["bench"],
        "question_file": questions["question_file"],
        "subset": questions["subset"],
        "allow_special": questions.get("allow_special", False),
        "answer_instruction": questions.get("answer_instruction"),
        "questions_hash": fingerprints["questions"],
        "model": fingerprints["model"],
    }


def scope_text(scope: str, workers: int) -> str:
    """How long drafters remembered: over a run, each of several workers remembers for itself."""
    return f"{scope} (each of {workers} workers)" if scope == "run" and workers > 1 else scope


def manifest_path(records: Path) -> Path:
    """`X.jsonl` -> `X.manifest.json`."""
    return records.with_suffix(".manifest.json")


def read_manifest(records: Path) -> Manifest:
    """The manifest beside a records file, empty where there is none; UserError if it is damaged."""
    file = manifest_path(records)
    if not file.exists():
        return Manifest({})
    remedy = "delete it and run again to have it rewritten"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); {remedy}") from None
    if not isinstance(data, dict):
        raise UserError(f"{file} is no manifest; {remedy}")
    manifest = Manifest(data)
    try:
        is_manifest = isinstance(manifest.settings, dict)
    except (KeyError, TypeError, AttributeError):
        is_manifest = False
    if not is_manifest:
        raise UserError(f"{file} is no manifest; {remedy}")
    return manifest
