"""Measure what verifying n nodes costs on this machine: the curve behind predicted speed-ups.

    python -m evaluation.calibrate --model-path mini --out data/mini/calibration.json

For every number of nodes and every context length: the median time of one verification forward, up to reading the
tokens. On a GPU also the share of the memory-bandwidth roofline that vanilla's step reaches.
"""

import json
from pathlib import Path
from typing import Any

import torch

from evaluation.cli import Parser, device_and_dtype, model_flags
from evaluation.errors import guarded
from evaluation.manifest import device_of, fingerprint
from evaluation.tables import FORMATS, number, render
from evaluation.writer import write_atomically
from model import checkpoint
from model.engine.measure import copy_bandwidth, step_bytes, verify_seconds
from model.engine.target import Target
from model.errors import UserError

NODES = (1, 2, 4, 8, 16, 32, 64)


def measure(target: Target, contexts: list[int], repeats: int) -> dict[str, Any]:
    """The curve at the first context, all contexts' curves, and on a GPU the roofline."""
    target.reserve(max(contexts) + max(NODES) + 8)
    target.prepare(max(NODES))
    curves = {str(c): [verify_seconds(target, n, c, repeats) for n in NODES] for c in contexts}
    found: dict[str, Any] = {"model": fingerprint(target), "device": device_of(target), "threads": torch.get_num_threads(),
                             "dtype": str(target.dtype).removeprefix("torch."), "engine": target.engine,
                             "nodes": list(NODES), "seconds": curves[str(contexts[0])], "contexts": curves}
    if target.device.type == "cuda":
        bandwidth = copy_bandwidth(target.device)
        found["copy_bandwidth"] = bandwidth
        found["roofline"] = {c: step_bytes(target, int(c)) / bandwidth / seconds[0] for c, seconds in curves.items()}
    return found


def main() -> int:
    parser = Parser(description=__doc__.split("\n")[0])
    model_flags(parser)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; DIR/calibration.json for the report of DIR")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512], help="cached tokens, the first for the report")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    args = parser.parse_args()
    if args.repeats < 1 or min(args.contexts) < 1:
        raise UserError("--repeats and --contexts must be at least 1")
    device, dtype = device_and_dtype(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    target = checkpoint.load_target(checkpoint.resolve(args.model_path), dtype, device, args.device_map,
                                    engine=args.engine)
    if max(args.contexts) + max(NODES) > target.max_positions:
        raise UserError(f"--contexts: the model has {target.max_positions} positions")
    found = measure(target, args.contexts, args.repeats)
    rows = [[c, *(f"{1e3 * s:.2f} ({number(s / seconds[0])})" for s in seconds)] for c, seconds in found["contexts"].items()]
    print(render(["context", *(f"n = {n}" for n in NODES)], rows, args.format))
    print("milliseconds of one verification of n nodes, and in vanilla steps (n = 1)")
    if "roofline" in found:
        shares = ", ".join(f"{share:.0%} at {c}" for c, share in found["roofline"].items())
        print(f"copy bandwidth {found['copy_bandwidth'] / 1e12:.2f} TB/s; vanilla reaches {shares} of it")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    guarded(main)()
