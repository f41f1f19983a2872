"""The measured cost of verifying n nodes, and the speed-up it predicts."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import metrics
from evaluation.comparison import Method, Setting
from evaluation.tables import number, percent

KEYS = ("model", "device", "dtype", "threads")


def calibration(folder: Path, settings: list[Setting], notices: list[str]) -> dict[str, Any] | None:
    """The curve of `evaluation.calibrate` in the folder; unused, and said, where it is broken or of another machine."""
    file = folder / "calibration.json"
    if not file.exists():
        return None
    try:
        curve = json.loads(file.read_text(encoding="utf-8"))
        same = len(curve["nodes"]) == len(curve["seconds"]) > 0 and min(curve["seconds"]) > 0 and curve["contexts"]
    except (OSError, ValueError, LookupError, TypeError):
        same = False
    if not same:
        notices.append(f"{file} is no cost curve: make it anew with python -m evaluation.calibrate")
        return None
    for manifest in (run.manifest for s in settings for m in s.methods for run in m.runs[:1]):
        mine = {"model": manifest.get("settings", {}).get("model"), "device": manifest.get("device"),
                "dtype": manifest.get("settings", {}).get("dtype"), "threads": manifest.get("threads")}
        differing = [f"{k} {curve.get(k)} / {mine[k]}" for k in KEYS if mine[k] is not None and curve.get(k) != mine[k]]
        if differing:
            notices.append(f"{file} was measured elsewhere ({'; '.join(differing)}), so nothing is predicted from it")
            return None
    return curve


def predicted(method: Method, setting: Setting, curve: dict[str, Any]) -> float:
    """Speed-up expected from MAT, the measured cost of verifying as many nodes, and the draft time.

    MAT / (verify(n) + draft) with both in units of verify(1), n the mean nodes a step with its root; linear between
    measured n, NaN beyond them.
    """
    records = method.on(setting.shared(method))
    nodes = 1 + metrics.drafted_per_step(records)
    if not records or nodes > curve["nodes"][-1]:
        return float("nan")
    seconds = np.interp(nodes, curve["nodes"], curve["seconds"])
    draft = sum(r.draft_time for r in records) / max(1, sum(len(r.accept_lengths) for r in records))
    return metrics.mean_accepted_tokens(records) * curve["seconds"][0] / (seconds + draft)


def table(curve: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Milliseconds of verifying n nodes at every context, in vanilla steps, and vanilla's share of the roofline."""
    roofline = curve.get("roofline", {})
    header = ["context (tokens)", *(f"n = {n}, ms (steps)" for n in curve["nodes"]), "vanilla, of the roofline"]
    return header, [[context, *(f"{1e3 * s:.2f} ({number(s / seconds[0])})" for s in seconds),
                     percent(roofline[context]) if context in roofline else "-"]
                    for context, seconds in curve["contexts"].items()]
