"""How near the engine comes to what the hardware allows: one command for a machine with a GPU.

    python bench/gpu.py [--shape qwen3-8b] [--out gpu]

Random weights of true shapes, nothing is downloaded. Prints, and saves as OUT.json and OUT.md: the bandwidth a copy
reaches; whether all engines emit the same tokens; what verifying n nodes costs at several context lengths, eager and
recorded, and Hugging Face's `generate` beside them; the share of the roofline; the step cost of every method when it
is right as often as told; what the host adds to a step. On a CPU, `--shape tiny` runs all of it.
"""

from time import perf_counter

BEGUN = perf_counter()  # importing PyTorch counts

import argparse
import gc
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import torch
import transformers
from agreement import agreement
from controlled import Controlled
from random_models import SHAPES, drafter, random_model, random_target

from model import draft
from model.draft import Forcing, Request
from model.engine.attention import Segment
from model.engine.decode import generate
from model.engine.measure import copy_bandwidth, step_bytes, verify_seconds
from model.engine.static import Choice
from model.engine.target import Target

NODES = (1, 8, 16, 32, 64)
# nodes of a chain where the method finds nothing to copy in random text: its published draft length
CHAINS = {"pld": 11, "sam": 41, "sam_eagle3": 41, "pia": 64, "rest": 64}


@dataclass
class Report:
    """What was measured, printed and written as it comes."""

    out: Path
    begun: float = BEGUN
    data: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def say(self, line: str = "") -> None:
        print(f"[{perf_counter() - self.begun:4.0f} s] {line}" if line else "", flush=True)
        self.lines.append(line)
        self.save()

    def attempt(self, what: str, part: Callable[[], None], left: float, needs: float = 0) -> None:
        """Do a part where there is time for it; what goes wrong is said and does not end the others."""
        if left < needs:
            self.say(f"left out for want of time: {what}")
            return
        try:
            part()
        except Exception as error:  # each part is worth having without the others
            self.data[f"failed: {what}"] = f"{type(error).__name__}: {error}"
            self.say(f"FAILED: {what}: {type(error).__name__}: {str(error)[:300]}")

    def table(self, name: str, header: list[str], rows: list[list[str]]) -> None:
        self.data[name] = {"header": header, "rows": rows}
        self.lines += ["", f"### {name}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        self.lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
        widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
        print(f"\n{name}")
        for row in [header, *rows]:
            print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)), flush=True)
        self.save()

    def save(self) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.with_suffix(".json").write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")
        self.out.with_suffix(".md").write_text("\n".join(self.lines) + "\n", encoding="utf-8")


def free(device: str) -> None:
    gc.collect()
    torch.compiler.reset()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def kernels(report: Report, args: argparse.Namespace) -> None:
    """Both operators against their references."""
    worst, same = agreement(SHAPES[args.shape](), torch.device(args.device))
    report.data["kernels"] = {"attention": worst, "sampling": same}
    good = same and worst["torch.float32"] < 1e-4 and worst["torch.bfloat16"] < 3e-2
    report.say(f"kernels {'agree with' if good else 'DIFFER FROM'} their references: largest difference of attention {worst},"
               f" sampled tokens {'equal' if same else 'DIFFER'}")


def equality(report: Report, args: argparse.Namespace) -> None:
    """Two layers of the shape in fp32: eager, recorded and fused engines, tokens of a tree and a chain method."""
    texts: dict[str, list[list[int]]] = {}
    prompt, ran = [(7 * i) % 97 for i in range(300)], {}
    for engine in args.engines:
        target = random_target(args.shape, args.device, torch.float32, engine, layers=2)
        requests = [Request(prompt, 40, temperature) for temperature in (0.0, 0.8)]
        texts[engine] = [generate(target, draft.load(m, target), r, max_nodes=16).output_ids
                         for m in ("vanilla", "recycling", "pld") for r in requests]
        ran[engine] = target.engine
        del target
        free(args.device)
    same = {e: ran[e] == e and t == texts[args.engines[0]] for e, t in texts.items()}
    lossless = all(t[:2] == t[2:4] == t[4:] for t in texts.values())
    report.data["equal"], report.data["engines that ran"] = {**same, "lossless": lossless}, ran
    report.say(f"fp32, 2 layers: same tokens as {args.engines[0]}: {same}; every method emits vanilla's: {lossless}; ran: {ran}")


def prepared(target: Target, positions: int, nodes: int, report: Report) -> None:
    """Cache filled with noise (zeros run faster than data), graphs recorded."""
    target.reserve(positions)
    with torch.inference_mode():
        target.cache.data.normal_()
    target.prepare(nodes)
    if target.static:
        report.say(f"engine {target.engine}: graphs of up to {nodes} nodes in {target.static.seconds:.0f} s")


def verify_curves(args: argparse.Namespace, target: Target, bandwidth: float, rows: list[list[str]]) -> None:
    """Milliseconds of verifying n nodes, in vanilla steps, and vanilla's share of the roofline."""
    for context in args.contexts:
        seconds = [verify_seconds(target, n, context, args.repeats) for n in NODES]
        share = step_bytes(target, context) / bandwidth / seconds[0]
        rows.append([args.shape, target.engine, str(context), *(f"{1e3 * s:.2f} ({s / seconds[0]:.2f})" for s in seconds),
                     f"{share:.0%}"])
        print("  ".join(rows[-1]), flush=True)


def device_seconds(target: Target, context: int, repeats: int) -> float:
    """Seconds a vanilla step keeps the device busy: steps launched back to back, timed by the device's own clock."""
    segment = Segment(0, context, [1], [context])
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    target.forward([segment], choice=Choice())
    begin.record()
    for _ in range(repeats):
        target.forward([segment], choice=Choice())
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


def step_seconds(target: Target, drafter: draft.Drafter, request: Request) -> tuple[float, float, float]:
    """(seconds a step, of which drafting, tokens a step) of a second generation, its first two steps left out: what a
    drafter does with the prompt falls into them."""
    generate(target, drafter, request)
    if isinstance(drafter, Controlled):
        drafter.sizes.clear()
        drafter.seconds.clear()
    ends: list[float] = []
    found = generate(target, drafter, request, on_step=lambda _: ends.append(perf_counter()))
    drafting = mean(drafter.seconds[2:]) if isinstance(drafter, Controlled) else found.times.draft / len(ends)
    return (ends[-1] - ends[1]) / (len(ends) - 2), drafting, mean(found.accept_lengths[2:])


def step_costs(report: Report, args: argparse.Namespace, target: Target) -> None:
    """Every method on the same text, right with the given chance; costs in vanilla steps of the same run."""
    prompt = [(31 * i) % 4999 % target.vocab_size for i in range(args.contexts[0])]
    vanilla = draft.load("vanilla", target)
    text = generate(target, vanilla, Request(prompt, args.tokens)).output_ids
    # in half precision another bucket may flip a near-tie, and the text would leave the known one: it is forced instead
    request = Request(prompt, args.tokens, forcing=Forcing(0, tuple(text), -1))
    base, _, _ = step_seconds(target, vanilla, request)
    rows = [["vanilla", "1", "1.00", f"{1e3 * base:.2f}", "1.00", "0.00", "1.00"]]
    for method in [m for m in draft.names() if m != "vanilla" and m in args.methods]:
        try:
            inner = drafter(method, target, args.shape, text)
        except ImportError as error:
            report.say(f"{method} left out: {error}")
            continue
        controlled = Controlled(inner, text, target.vocab_size, args.chance, CHAINS.get(method, 1))
        controlled.reserve(len(prompt) + args.tokens)
        target.prepare(controlled.needs.max_nodes, controlled.needs.feature_layers, controlled.needs.topk)
        step, drafting, accepted = step_seconds(target, controlled, request)
        rows.append([method, f"{mean(controlled.sizes):.0f}", f"{accepted:.2f}", f"{1e3 * step:.2f}",
                     f"{step / base:.2f}", f"{1e3 * drafting:.2f}", f"{accepted * base / step:.2f}"])
        print("  ".join(rows[-1]), flush=True)
        del inner, controlled
        free(args.device)
    report.table(f"Step cost of every method, {args.shape}, right with probability {args.chance:g} a level",
                 ["method", "nodes", "MAT", "ms a step", "step cost", "draft ms", "speed-up"], rows)


def hugging_face(report: Report, args: argparse.Namespace, static: bool) -> None:
    """Milliseconds a token of `generate` by itself, prompts of the first context."""
    model = random_model(args.shape, args.device, args.dtype)
    ids = torch.randint(0, min(1000, model.config.vocab_size), (1, args.contexts[0]), device=args.device)
    extra = {"cache_implementation": "static"} if static else {}

    def seconds(tokens: int) -> float:
        begun = perf_counter()
        model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, eos_token_id=None,
                       pad_token_id=0, attention_mask=torch.ones_like(ids), **extra)
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        return perf_counter() - begun

    with torch.no_grad():  # a static cache's graphs write to tensors that inference mode would lock
        seconds(80)
        token = median((seconds(72) - seconds(8)) / 64 for _ in range(3))
    name = "static cache, compiled" if static else "eager"
    report.data[f"hugging face {name}"] = token
    report.say(f"Hugging Face generate, {name}: {1e3 * token:.2f} ms a token at context {args.contexts[0]}")


def parse() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="qwen3-8b" if cuda else "tiny", choices=sorted(SHAPES))
    parser.add_argument("--second", default="llama-8b" if cuda else None, help="a second shape, verification only")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 4096, 15000] if cuda else [64, 256])
    parser.add_argument("--engines", nargs="+", default=["eager", "graph", "compile"] if cuda else ["eager", "graph"])
    parser.add_argument("--methods", nargs="+", default=draft.names())
    parser.add_argument("--chance", type=float, default=0.7)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=470, help="parts that would begin later are left out")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    args = parser.parse_args()
    args.dtype = torch.bfloat16 if args.device.startswith("cuda") else torch.float32
    return args


def curves_of(report: Report, args: argparse.Namespace, engines: list[str], bandwidth: float, rows: list[list[str]],
              costs: bool) -> None:
    """Verification curves of one shape by each engine; with `costs` the step costs by the last of them."""
    positions = max(max(args.contexts) + 256, args.contexts[0] + args.tokens + 256)
    for engine in engines:
        target = random_target(args.shape, args.device, args.dtype, engine)
        prepared(target, positions, max(NODES), report)
        verify_curves(args, target, bandwidth, rows)
        if engine != "eager" and args.device.startswith("cuda"):
            busy = device_seconds(target, args.contexts[0], args.repeats)
            wall = verify_seconds(target, 1, args.contexts[0], args.repeats)
            report.data[f"host gap, {args.shape}, {target.engine}"] = wall - busy
            report.say(f"{target.engine}: a vanilla step takes {1e3 * wall:.2f} ms, the device is busy for {1e3 * busy:.2f} ms")
        if costs and engine == engines[-1]:
            step_costs(report, args, target)
        del target
        free(args.device)


def main() -> None:
    args = parse()
    report = Report(args.out)
    warnings.simplefilter("default")
    if args.device.startswith("cuda"):
        torch.cuda.set_device(args.device)
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    report.data["machine"] = {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}
    report.say(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, {args.dtype}")
    bandwidth = copy_bandwidth(torch.device(args.device))
    report.data["copy_bandwidth"] = bandwidth
    report.say(f"copying reaches {bandwidth / 1e12:.2f} TB/s (read and written)")
    rows: list[list[str]] = []
    second = argparse.Namespace(**{**vars(args), "shape": args.second})
    parts: list[tuple[str, float, Callable[[], None]]] = [  # what, seconds it needs on a GPU, the part
        ("kernels", 0, lambda: kernels(report, args)),
        ("equality", 0, lambda: equality(report, args)),
        (args.shape, 0, lambda: curves_of(report, args, args.engines, bandwidth, rows, costs=True)),
        ("Hugging Face eager", 30, lambda: hugging_face(report, args, static=False)),
        (str(args.second), 60, lambda: curves_of(report, second, args.engines[-1:], bandwidth, rows, costs=False)),
        ("Hugging Face compiled", 160, lambda: hugging_face(report, args, static=True))]
    for what, needs, part in parts:
        on_cuda = args.device.startswith("cuda")
        if (what == str(args.second) and not args.second) or (what == "Hugging Face compiled" and not on_cuda):
            continue
        report.attempt(what, part, args.seconds - (perf_counter() - report.begun), needs if on_cuda else 0)
        free(args.device)
    report.table("Verifying n nodes: ms (in steps of n = 1)",
                 ["shape", "engine", "context", *(f"n = {n}" for n in NODES), "roofline"], rows)
    print(f"written: {report.out.with_suffix('.json')}, {report.out.with_suffix('.md')}")


if __name__ == "__main__":
    main()
