"""Settings as earlier versions wrote them, brought to today's names. Append only.

Version 0.1 wrote its settings flat, called the engines `graph` and `compile`, and had other names
for drafter options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPTIONS = {
    "ea_model_path": "eagle_head",
    "total_token": "eagle_nodes",
    "depth": "eagle_depth",
    "top_k": "eagle_top_k",
    "level": "lookahead_level",
    "window": "lookahead_window",
    "guess": "lookahead_guess",
    "branch_length": "pia_branch_length",
    "decoding_length": "pia_nodes",
    "output_weight": "pia_output_weight",
    "datastore_path": "rest_datastore",
    "num_draft": "rest_nodes",
    "max_token_span": "rest_span",
    "static_sam_path": "sam_corpus",
    "static_sam_tokens": "sam_corpus_tokens",
    "chain_nodes": "sam_chain_nodes",
    "len_threshold": "sam_threshold",
    "drafter_path": "sps_model",
    "draft_tokens": "sps_tokens",
    "draft_schedule": "sps_schedule",
    "draft_confidence": "sps_confidence",
}
"""Drafter options of version 0.1 by their names today."""
SETTINGS = {"top_k": "sampling_top_k", "top_p": "sampling_top_p"}
"""Other settings."""


def upgraded_settings(settings: Mapping[str, Any], device: str | None) -> dict[str, Any]:
    """The flat settings of a manifest of schema 1, with today's names."""
    upgraded = {SETTINGS.get(name, name): value for name, value in settings.items()}
    upgraded.setdefault("allow_special", False)  # there were no such flags
    upgraded.setdefault("answer_instruction", None)
    upgraded.setdefault("record_topk", 0)
    upgraded.setdefault("record_drafts", False)
    upgraded.setdefault("parallel", 1)
    upgraded.setdefault("max_rows", None)
    options = upgraded.get("options")
    if isinstance(options, dict):
        upgraded["options"] = {OPTIONS.get(name, name): value for name, value in options.items()}
    ran_on_cpu = "(" in (device or "")  # processors were named with their system in brackets
    engines = {
        "graph": "torchscript" if ran_on_cpu else "cuda_graph",
        "compile": "cuda_graph_fused",
    }
    if "engine" in upgraded:
        upgraded["engine"] = engines.get(upgraded["engine"], upgraded["engine"])
    return upgraded
