"""How near the engine comes to what the hardware allows: one command for a machine with a GPU.

    python bench/gpu.py [--shape qwen3-8b] [--parts roofline,verify] [--out gpu]

Random weights of true shapes, nothing is downloaded. Printed as it comes, and saved as OUT.json,
OUT.md and OUT.png: the bandwidth that a copy reaches, and by part

- kernels: do both operators agree with their references?
- equality: do all engines emit the same tokens, in fp32?
- roofline: the bandwidth that a vanilla step of the last engine reaches, of a copy's, by context
  length (only when asked for: `verify` tells it too);
- verify: what verifying n nodes costs at several context lengths, eager and recorded, the share of
  the roofline, and what the host adds to a step;
- costs: a step of every method that is right as often as told, the seconds until it is ready, and
  whether its text of random weights parts from vanilla's at ties only;
- together: steps of several texts in one forward;
- honesty: the mini family in this machine's number type: do texts part from vanilla's at ties only?
- generate: Hugging Face's `generate` beside them;
- second: verification of a second shape;
- compiled: `generate` over a static cache, compiled.

On a CPU all of it runs on the shape `tiny`.
"""

from __future__ import annotations

from time import perf_counter

BEGUN = perf_counter()  # importing PyTorch counts

import dataclasses
import gc
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import psutil
import torch
import transformers
from agreement import agreement
from controlled import Controlled
from gpu_figure import Curve, Measured, draw
from gpu_report import Report
from random_models import SHAPES, random_drafter, random_network

from evaluation import verify
from evaluation.command import Parser, run_command, summary
from evaluation.report.formatting import UNKNOWN, Table
from evaluation.running.build import checked_device
from model import checkpoint, methods
from model.contract import Drafter, Forcing, Request
from model.engine.decode import generate
from model.engine.device import attention_table
from model.engine.device.attention_table import Kind
from model.engine.forward import Segment, Wanted
from model.engine.measure import copy_bandwidth, step_bytes, verify_seconds
from model.engine.model import Model
from model.errors import UserError

SUFFIXES = (".json", ".md", ".png")
NODES = (1, 8, 16, 32, 64)
TOGETHER = (1, 4, 8, 16)
"""Texts in one forward."""
NODES_TOGETHER = (1, 8, 16)
"""Of each of them."""
CHAINS = {"pld": 11, "sam": 41, "sam_eagle3": 41, "pia": 64, "rest": 64}
"""Nodes of a chain where a method finds nothing to copy in random text: its published length."""
UNTIMED_STEPS = 2
"""A generation's first steps: what a drafter does with the prompt falls into them."""
ROOM = 256
"""Cache positions behind the longest text that is measured."""
COSTS_SECONDS, TOGETHER_SECONDS, HONESTY_SECONDS = 180, 50, 90
SECOND_SHAPE_SECONDS, EAGER_SECONDS, COMPILED_SECONDS = 60, 30, 160
"""What these parts are expected to take on a GPU; they are not begun where less is left."""


@dataclass(frozen=True)
class Settings:
    """The command line."""

    shape: str
    second: str | None
    device: str
    contexts: list[int]
    engines: list[str]
    methods: list[str]
    chance: float
    tokens: int
    repeats: int
    seconds: float
    parts: list[str]
    out: Path

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.on_gpu else torch.float32

    @property
    def positions(self) -> int:
        """Cache positions that the longest measurement takes."""
        return max(max(self.contexts), self.contexts[0] + self.tokens) + ROOM

    def model(
        self, engine: str, dtype: torch.dtype | None = None, layers: int | None = None
    ) -> Model:
        """The shape with random weights, run by an engine."""
        network = random_network(self.shape, self.device, dtype or self.dtype, layers)
        return Model(network, engine=engine)


@dataclass
class Bench:
    """The measurements share settings, report and bandwidth; every part is a method."""

    settings: Settings
    report: Report
    bandwidth: float
    """Bytes a second of copying on the device."""
    curves: list[list[str]] = field(default_factory=list)
    """Rows of the table of verification times, from all shapes and engines."""
    measured: Measured = field(default_factory=Measured)

    def kernels(self) -> None:
        """Both operators against their references."""
        settings = self.settings
        measured = agreement(SHAPES[settings.shape](), torch.device(settings.device))
        self.report.data["kernels"] = dataclasses.asdict(measured)
        self.report.say(
            f"kernels {'agree with' if measured.is_good else 'DIFFER FROM'} their references:"
            f" largest difference of attention {measured.attention},"
            f" sampled tokens {'equal' if measured.sampling else 'DIFFER'}"
        )

    def equality(self) -> None:
        """Two layers of the shape in fp32: do all engines and methods emit the same tokens?"""
        settings = self.settings
        texts: dict[str, dict[str, list[list[int]]]] = {}
        engines_that_ran: dict[str, str] = {}
        for engine in settings.engines:
            model = settings.model(engine, torch.float32, layers=2)
            texts[engine] = texts_by_method(model)
            engines_that_ran[engine] = model.engine
            del model
            free(settings)
        first = settings.engines[0]
        same = {}
        for engine in settings.engines:
            same[engine] = engines_that_ran[engine] == engine and texts[engine] == texts[first]
        lossless = all(is_lossless(by_method) for by_method in texts.values())
        self.report.data["equal"] = {**same, "lossless": lossless}
        self.report.data["engines that ran"] = engines_that_ran
        self.report.say(
            f"fp32, 2 layers: same tokens as {first}: {same};"
            f" every method emits vanilla's: {lossless}; ran: {engines_that_ran}"
        )

    def honesty(self) -> None:
        """The mini family: every method's texts against vanilla's, and where they part."""
        settings = self.settings
        names = [name for name in settings.methods if name != "vanilla"]
        words = "--model-path mini --temperature 0 0.6 --questions 1 --max-new-tokens".split()
        words.append(str(settings.tokens))
        args = verify.verify_parser(names).parse_args(words)
        dtype = str(settings.dtype).removeprefix("torch.")
        engine = settings.engines[-1] if settings.on_gpu else "auto"
        loaded = checkpoint.load("mini", dtype, settings.device, engine=engine)
        self._judge("mini", verify.check_methods(loaded, names, args))

    def roofline(self) -> None:
        """A vanilla step of the last engine against reading its bytes once."""
        settings = self.settings
        model = settings.model(settings.engines[-1])
        self._prepare(model)
        rows = []
        for context in settings.contexts:
            seconds = verify_seconds(model, 1, context, settings.repeats)
            share = self._share(model, context, seconds)
            rows.append([model.engine, str(context), f"{1e3 * seconds:.2f}", f"{share:.0%}"])
        header = ["engine", "context", "ms a vanilla step", "of the bandwidth of a copy"]
        self.report.table(Table(f"Roofline of vanilla, {settings.shape}", header, rows))

    def verify(self) -> None:
        """Verification by the simplest engine and the best."""
        engines = self.settings.engines
        for engine in dict.fromkeys([engines[0], engines[-1]]):
            self._verified(engine)
            free(self.settings)

    def costs(self) -> None:
        """Every method's step cost by the last engine."""
        model = self.settings.model(self.settings.engines[-1])
        self._prepare(model)
        self._step_costs(model)

    def together(self) -> None:
        """Steps of several texts behind the first context, by the last engine."""
        settings = self.settings
        context = settings.contexts[0]
        model = settings.model(settings.engines[-1])
        self._prepare(model, positions=context + ROOM, sequences=max(TOGETHER))
        rows = []
        curves: dict[int, list[float]] = {nodes: [] for nodes in NODES_TOGETHER}
        base = verify_seconds(model, 1, context, settings.repeats)
        for texts in TOGETHER:
            cells = [str(texts)]
            for nodes in NODES_TOGETHER:
                if texts * nodes > model.backend.most_rows:
                    cells.append(UNKNOWN)
                    continue
                seconds = verify_seconds(model, nodes, context, settings.repeats, texts)
                curves[nodes].append(seconds)
                cells.append(f"{1e3 * seconds:.2f} ({seconds / base:.2f})")
            cells.append(f"{texts / curves[1][-1]:.0f}")
            rows.append(cells)
            print("  ".join(cells), flush=True)
        for nodes, seconds_of in curves.items():
            numbers = TOGETHER[: len(seconds_of)]
            self.measured.together.append(Curve(f"n = {nodes}", numbers, seconds_of))
        nodes_header = [f"n = {nodes}" for nodes in NODES_TOGETHER]
        header = ["texts", *nodes_header, "vanilla tokens/s"]
        title = (
            f"Texts together, n nodes each, {settings.shape} at {context}: ms (in vanilla steps)"
        )
        self.report.table(Table(title, header, rows))

    def second_shape(self) -> None:
        """Verification of the second shape by the last engine."""
        settings = self.settings
        assert settings.second is not None
        second = dataclasses.replace(settings, shape=settings.second)
        dataclasses.replace(self, settings=second)._verified(settings.engines[-1])

    def hugging_face(self, static: bool) -> None:
        """Milliseconds a token of `generate` by itself, prompts of the first context."""
        settings = self.settings
        seconds = hugging_face_seconds(settings, static)
        name = "static cache, compiled" if static else "eager"
        self.report.data[f"hugging face {name}"] = seconds
        self.report.say(
            f"Hugging Face generate, {name}: {1e3 * seconds:.2f} ms a token"
            f" at context {settings.contexts[0]}"
        )

    def _verified(self, engine: str) -> None:
        """Verification of this shape, with graphs recorded."""
        settings = self.settings
        model = settings.model(engine)
        self._prepare(model)
        self._verify_curves(model)
        if engine != "eager" and settings.on_gpu:
            self._host_gap(model)

    def _prepare(self, model: Model, positions: int = 0, sequences: int = 1) -> None:
        """Fill the cache with noise (zeros run faster than data) and record the graphs."""
        model.reserve(positions or self.settings.positions, sequences)
        with torch.inference_mode():
            model.cache.data.normal_()
        before, begun = used_gib(self.settings), perf_counter()
        if model.prepare(max(NODES), Wanted()):
            self.report.say(
                f"engine {model.engine}: graphs of up to {max(NODES)} nodes in"
                f" {perf_counter() - begun:.0f} s; memory {before:.1f} GiB with the cache,"
                f" {used_gib(self.settings):.1f} with the graphs"
            )

    def _verify_curves(self, model: Model) -> None:
        """Milliseconds of verifying n nodes, in vanilla steps, and vanilla's roofline share."""
        settings = self.settings
        for context in settings.contexts:
            seconds = [verify_seconds(model, n, context, settings.repeats) for n in NODES]
            cells = [f"{1e3 * s:.2f} ({s / seconds[0]:.2f})" for s in seconds]
            share = self._share(model, context, seconds[0])
            row = [settings.shape, model.engine, str(context), *cells, f"{share:.0%}"]
            self.curves.append(row)
            name = f"{settings.shape}, {model.engine}, {context}"
            self.measured.verify.append(Curve(name, NODES, seconds))
            self.report.data[f"verify seconds, {name}"] = dict(zip(NODES, seconds, strict=True))
            print("  ".join(row), flush=True)

    def _share(self, model: Model, context: int, seconds: float) -> float:
        """Of a copy's bandwidth, what a vanilla step of so many seconds reaches."""
        return step_bytes(model, context) / self.bandwidth / seconds

    def _host_gap(self, model: Model) -> None:
        """How much longer a vanilla step takes than the device is busy."""
        settings = self.settings
        busy = device_seconds(model, settings.contexts[0], settings.repeats)
        wall = verify_seconds(model, 1, settings.contexts[0], settings.repeats)
        self.report.data[f"host gap, {settings.shape}, {model.engine}"] = wall - busy
        self.report.say(
            f"{model.engine}: a vanilla step takes {1e3 * wall:.2f} ms,"
            f" the device is busy for {1e3 * busy:.2f} ms"
        )

    def _step_costs(self, model: Model) -> None:
        """Every method on the same text, right with the given chance.

        Costs are in vanilla steps of the same run.
        """
        settings = self.settings
        prompt = [(31 * i) % 4999 % model.vocab_size for i in range(settings.contexts[0])]
        vanilla = methods.load("vanilla", model)
        text = generate(model, vanilla, Request(prompt, settings.tokens)).output_ids
        # in half precision another bucket may flip a near-tie, and the text would leave the known
        # one: it is forced instead
        request = Request(prompt, settings.tokens, forcing=Forcing(0, tuple(text), -1))
        open_request = dataclasses.replace(request, forcing=None)
        checks = []
        base = step_time(model, vanilla, request)
        rows = [StepCost("vanilla", 1, dataclasses.replace(base, drafting=0.0)).cells(base)]
        for method in methods.names():
            if method == "vanilla" or method not in settings.methods:
                continue
            try:
                inner = random_drafter(method, model, settings.shape, text)
            except ImportError as error:
                self.report.say(f"{method} left out: {error}")
                continue
            chain = CHAINS.get(method, 1)
            drafter = Controlled(inner, text, model.vocab_size, settings.chance, chain)
            cost = step_cost(method, model, drafter, request)
            rows.append(cost.cells(base))
            made = generate(model, drafter, open_request)
            checks.append(verify.MethodCheck(method, 0.0))
            checks[-1].texts.append(verify.check_text(model, open_request, text, made))
            self.measured.costs[method] = cost.time.seconds / base.seconds
            print("  ".join(rows[-1]), flush=True)
            del inner, drafter
            release(settings)  # what is compiled serves the next method too
        title = (
            f"Step cost of every method, {settings.shape},"
            f" right with probability {settings.chance:g} a level"
        )
        header = [
            "method",
            "nodes",
            "MAT",
            "ms a step",
            "step cost",
            "draft ms",
            "speed-up",
            "ready s",
        ]
        self.report.table(Table(title, header, rows))
        self._judge(f"random weights, {settings.shape}", checks)

    def _judge(self, what: str, checks: list[verify.MethodCheck]) -> None:
        """Table the comparisons with vanilla.

        Raises:
            AssertionError: texts part where no tie explains it.
        """
        dtype = str(self.settings.dtype).removeprefix("torch.")
        rows = [checked.row() for checked in checks]
        self.report.table(Table(f"Texts against vanilla's, {what}, {dtype}", verify.HEADER, rows))
        is_exact = dtype in verify.EXACT_DTYPES
        is_good = all(checked.is_good(is_exact) for checked in checks)
        said = verify.verdict(dtype, is_good)
        self.report.data[f"honest, {what}"] = is_good
        if not is_good:
            raise AssertionError(said)
        self.report.say(said)


def free(settings: Settings) -> None:
    """Give memory back before the next model is made, and forget what was compiled for this one."""
    torch.compiler.reset()
    release(settings)


def release(settings: Settings) -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()
    if settings.on_gpu:
        torch.cuda.empty_cache()


def used_gib(settings: Settings) -> float:
    """In use on the device by all, or on a CPU by this process."""
    if settings.on_gpu:
        free_bytes, total = torch.cuda.mem_get_info()
        return (total - free_bytes) / (1 << 30)
    return psutil.Process().memory_info().rss / (1 << 30)


def texts_by_method(model: Model) -> dict[str, list[list[int]]]:
    """What vanilla, a tree and a chain method emit, greedily and drawn."""
    prompt = [(7 * i) % 97 for i in range(300)]
    requests = [Request(prompt, 40, temperature) for temperature in (0.0, 0.8)]
    texts = {}
    for method in ("vanilla", "recycling", "pld"):
        texts[method] = []
        for request in requests:
            drafter = methods.load(method, model)
            texts[method].append(generate(model, drafter, request, max_nodes=16).output_ids)
    return texts


def is_lossless(texts: dict[str, list[list[int]]]) -> bool:
    """Does every method emit what vanilla emits?"""
    return all(text == texts["vanilla"] for text in texts.values())


def device_seconds(model: Model, context: int, repeats: int) -> float:
    """Seconds a vanilla step keeps the device busy.

    Steps are launched back to back and timed by the device's own clock.
    """
    segment, wanted = Segment.causal(0, context, [1]), Wanted(is_step=True)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    model.forward([segment], wanted)
    begin.record()
    for _ in range(repeats):
        model.forward([segment], wanted)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


@dataclass(frozen=True)
class StepTime:
    """Means over a generation's timed steps."""

    seconds: float
    drafting: float
    """Seconds of proposing and learning, a part of `seconds`."""
    accepted: float
    """Tokens emitted a step."""


@dataclass(frozen=True)
class StepCost:
    """What a method's step takes, and the mean size of its drafts."""

    method: str
    nodes: float
    time: StepTime
    ready: float = 0.0
    """Seconds of recording what the method needs beside vanilla."""

    def cells(self, base: StepTime) -> list[str]:
        """A row of the table; `base` is vanilla's."""
        time = self.time
        return [
            self.method,
            f"{self.nodes:.0f}",
            f"{time.accepted:.2f}",
            f"{1e3 * time.seconds:.2f}",
            f"{time.seconds / base.seconds:.2f}",
            f"{1e3 * time.drafting:.2f}",
            f"{time.accepted * base.seconds / time.seconds:.2f}",
            f"{self.ready:.1f}",
        ]


def step_cost(method: str, model: Model, drafter: Controlled, request: Request) -> StepCost:
    """Record what the drafter needs, then time it."""
    needs, begun = drafter.needs, perf_counter()
    drafter.reserve(len(request.prompt_ids) + request.max_new_tokens)
    wanted = Wanted(feature_layers=needs.feature_layers, target_topk=needs.target_topk)
    model.prepare(needs.max_nodes, wanted)
    ready = perf_counter() - begun
    time = step_time(model, drafter, request)
    return StepCost(method, mean(drafter.sizes), time, ready)


def step_time(model: Model, drafter: Drafter, request: Request) -> StepTime:
    """Of the second of two generations, its first steps left out."""
    generate(model, drafter, request)
    if isinstance(drafter, Controlled):
        drafter.forget_times()
    ends: list[float] = []
    generation = generate(model, drafter, request, on_step=lambda _: ends.append(perf_counter()))
    drafting = generation.times.draft / len(ends)
    if isinstance(drafter, Controlled):
        drafting = mean(drafter.seconds[UNTIMED_STEPS:])
    timed_steps = len(ends) - UNTIMED_STEPS
    return StepTime(
        seconds=(ends[-1] - ends[UNTIMED_STEPS - 1]) / timed_steps,
        drafting=drafting,
        accepted=mean(generation.accept_lengths[UNTIMED_STEPS:]),
    )


def hugging_face_seconds(settings: Settings, static: bool) -> float:
    """Seconds a token of `generate`, from the difference of a long and a short text."""
    network = random_network(settings.shape, settings.device, settings.dtype)
    tokens_known = min(1000, network.config.vocab_size)
    ids = torch.randint(0, tokens_known, (1, settings.contexts[0]), device=settings.device)
    cache = {"cache_implementation": "static"} if static else {}

    def seconds(tokens: int) -> float:
        begun = perf_counter()
        network.generate(
            ids,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            attention_mask=torch.ones_like(ids),
            **cache,
        )
        if settings.on_gpu:
            torch.cuda.synchronize()
        return perf_counter() - begun

    with torch.no_grad():  # a static cache's graphs write to tensors that inference mode would lock
        seconds(80)
        return median((seconds(72) - seconds(8)) / 64 for _ in range(3))


@dataclass(frozen=True)
class Part:
    """A part of the whole, and how long it takes on a GPU (0: it is begun in any case)."""

    run: Callable[[Bench], None]
    seconds: float = 0


PARTS = {
    "kernels": Part(Bench.kernels),
    "equality": Part(Bench.equality),
    "roofline": Part(Bench.roofline),
    "verify": Part(Bench.verify),
    "costs": Part(Bench.costs, COSTS_SECONDS),
    "together": Part(Bench.together, TOGETHER_SECONDS),
    "honesty": Part(Bench.honesty, HONESTY_SECONDS),
    "generate": Part(lambda bench: bench.hugging_face(static=False), EAGER_SECONDS),
    "second": Part(Bench.second_shape, SECOND_SHAPE_SECONDS),
    "compiled": Part(lambda bench: bench.hugging_face(static=True), COMPILED_SECONDS),
}
"""The most important first."""


def parse() -> Settings:
    on_gpu = torch.cuda.is_available()
    parser = Parser(description=summary(__doc__))
    parser.add_argument("--shape", default="qwen3-8b" if on_gpu else "tiny", choices=sorted(SHAPES))
    parser.add_argument(
        "--second", default="llama-8b" if on_gpu else None, help="a second shape, verification only"
    )
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    contexts = [1024, 4096, 15000] if on_gpu else [64, 256]
    parser.add_argument("--contexts", type=int, nargs="+", default=contexts)
    engines = ["eager", "cuda_graph", "cuda_graph_fused"] if on_gpu else ["eager", "cuda_graph"]
    parser.add_argument("--engines", nargs="+", default=engines)
    parser.add_argument("--methods", nargs="+", default=methods.names())
    parser.add_argument("--chance", type=float, default=0.7)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument(
        "--seconds", type=float, default=470, help="parts that would begin later are left out"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=[],
        help=f"of {', '.join(PARTS)}; default: all that there are here",
    )
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    args = parser.parse_args()
    args.device = str(checked_device(args.device))
    args.parts = parts_of(args.parts)
    if not args.parts:
        left_out = {"roofline"} if args.second else {"roofline", "second"}
        left_out |= set() if on_gpu else {"compiled"}
        args.parts = [part for part in PARTS if part not in left_out]
    elif "second" in args.parts and not args.second:
        raise UserError("the part 'second' needs --second SHAPE")
    return Settings(**vars(args))


def parts_of(words: list[str]) -> list[str]:
    """Names of parts, with commas or spaces between them.

    Raises:
        UserError: there is no part of that name.
    """
    names = [name for word in words for name in word.split(",") if name]
    for name in names:
        if name not in PARTS:
            raise UserError(f"--parts: there is no part {name!r}; there are: {', '.join(PARTS)}")
    if words and not names:
        raise UserError(f"--parts: name one of {', '.join(PARTS)}, or leave it out for all")
    return names


def measured_attention(settings: Settings) -> str:
    """What `bench/attention.py --save` has written for this card and shape; empty for nothing."""
    config, device = SHAPES[settings.shape](), torch.device(settings.device)
    heads = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    kind = Kind(attention_table.card_of(device), *heads, settings.dtype)
    return str(attention_table.load(kind))


def main() -> None:
    settings = parse()
    report = Report(settings.out, BEGUN)
    warnings.simplefilter("default")
    if settings.on_gpu:
        torch.cuda.set_device(settings.device)
    device = torch.cuda.get_device_name() if settings.on_gpu else "CPU"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    report.data["machine"] = {"device": device, **versions}
    report.say(
        f"{device}, torch {torch.__version__}, transformers {transformers.__version__},"
        f" {settings.dtype}"
    )
    attention = measured_attention(settings)
    report.data["machine"]["attention"] = attention
    report.say(f"attention: {attention or 'launched by default'}")
    bandwidth = copy_bandwidth(torch.device(settings.device))
    report.data["copy_bandwidth"] = bandwidth
    report.say(f"copying reaches {bandwidth / 1e12:.2f} TB/s (read and written)")
    bench = Bench(settings, report, bandwidth)
    for name in settings.parts:
        part = PARTS[name]
        left = settings.seconds - report.elapsed
        report.attempt(name, partial(part.run, bench), left, part.seconds if settings.on_gpu else 0)
        # a device that a part has left broken fails here again, and the report goes on all the same
        report.attempt(f"memory after: {name}", lambda: free(settings), 1, 0)
    if bench.curves:
        nodes = [f"n = {n}" for n in NODES]
        header = ["shape", "engine", "context", *nodes, "roofline"]
        report.table(Table("Verifying n nodes: ms (in steps of n = 1)", header, bench.curves))
    draw(bench.measured, settings.out.with_suffix(".png"))
    print(f"written: {', '.join(str(settings.out.with_suffix(s)) for s in SUFFIXES)}")


if __name__ == "__main__":
    run_command(main)()
