"""Measure what verifying n nodes costs on this machine: the curve behind predicted speed-ups.

    python -m evaluation.calibrate --model-path mini --out data/mini/calibration.json

For every number of nodes and every context length: the median time of one verification forward, up
to reading the tokens. On a GPU also the share of the memory-bandwidth roofline that vanilla's step
reaches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from evaluation.command import Parser, at_least, real, run_command, summary
from evaluation.records.writer import write_atomically
from evaluation.report.formatting import FORMATS, Table, number
from evaluation.running.build import resolved_model
from evaluation.running.cli import add_model_flags, model_spec
from evaluation.running.manifest import device_name, fingerprint
from model import checkpoint
from model.engine.forward import Wanted
from model.engine.measure import copy_bandwidth, curve_seconds, step_bytes
from model.engine.model import Model
from model.errors import UserError

NODES = (1, 2, 4, 8, 16, 32, 64)


def measure(
    model: Model, contexts: Sequence[int], repeats: int, temperature: float = 0.0
) -> dict[str, Any]:
    """The curve at the first context, all contexts' curves, and on a GPU the roofline."""
    model.reserve(max(contexts) + max(NODES) + 8)
    model.prepare(max(NODES), Wanted())
    curves = {}
    for context in contexts:
        curves[str(context)] = curve_seconds(model, NODES, context, repeats, temperature)
    measured: dict[str, Any] = {
        "model": fingerprint(model),
        "device": device_name(model),
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "engine": model.engine,
        "nodes": list(NODES),
        "seconds": curves[str(contexts[0])],
        "contexts": curves,
    }
    if model.device.type == "cuda":
        bandwidth = copy_bandwidth(model.device)
        measured["copy_bandwidth"] = bandwidth
        measured["roofline"] = {}
        for context in contexts:
            least = step_bytes(model, context) / bandwidth
            measured["roofline"][str(context)] = least / curves[str(context)][0]
    return measured


def _parser() -> Parser:
    parser = Parser(description=summary(__doc__))
    add_model_flags(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="JSON file; DIR/calibration.json for the report of DIR",
    )
    parser.add_argument(
        "--contexts",
        type=int,
        nargs="+",
        default=[512],
        help="cached tokens, the first for the report",
    )
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument(
        "--temperature",
        type=real,
        default=0.0,
        help="drawing tokens costs time of its own: that of the runs to be predicted",
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    return parser


def show(measured: dict[str, Any], form: str) -> None:
    """Milliseconds and vanilla steps; on a GPU the roofline."""
    rows = []
    for context, seconds in measured["contexts"].items():
        cells = [f"{1e3 * s:.2f} ({number(s / seconds[0])})" for s in seconds]
        rows.append([context, *cells])
    header = ("context", *(f"n = {n}" for n in NODES))
    print(Table("", header, rows).text(form))
    print("milliseconds of one verification of n nodes, and in vanilla steps (n = 1)")
    if "roofline" in measured:
        shares = [f"{share:.0%} at {context}" for context, share in measured["roofline"].items()]
        bandwidth = measured["copy_bandwidth"] / 1e12
        print(f"copy bandwidth {bandwidth:.2f} TB/s; vanilla reaches {', '.join(shares)} of it")


def main() -> int:
    args = _parser().parse_args()
    if args.repeats < 1 or min(args.contexts) < 1:
        raise UserError("--repeats and --contexts must be at least 1")
    at_least(args, 0, "temperature")
    spec = resolved_model(model_spec(args))
    model = checkpoint.load_model(
        checkpoint.resolve(spec.path),
        spec.dtype,
        spec.device or "cpu",
        spec.device_map,
        engine=spec.engine,
    )
    if max(args.contexts) + max(NODES) > model.max_positions:
        raise UserError(f"--contexts: the model has {model.max_positions} positions")
    measured = measure(model, args.contexts, args.repeats, args.temperature)
    show(measured, args.format)
    write_atomically(args.out, json.dumps(measured, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)()
