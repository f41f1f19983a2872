"""A Hugging Face causal language model, unpatched, with the engine's cache: rows in, logits and features out.

Knows nothing of drafts: a caller gives segments (rows of sequences with positions and masks) and gets, for chosen
rows, logits. The same class holds the target and a draft model. Three engines run the same model: `eager`, operation
by operation; `graph`, recorded (on a CPU by `graphs.py`, on a GPU by `static.py`); `compile`, on a GPU, graphs of
fused operations. What is recorded is used only while it reproduces the eager forward.

Shapes: R rows of all segments, V vocabulary, H hidden size, A captured layers.
"""

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from model.engine.attention import GROUPED_ROWS, NAME, Segment, Step
from model.engine.cache import KVCache
from model.engine.graphs import Graphs
from model.engine.static import (
    BUCKETS,
    MOST_ROWS,
    SLOT,
    Choice,
    Outputs,
    StaticForward,
    bucket,
    forget_caches,
    uncompiled,
)
from model.engine.tree_attention import uses_kernel
from model.errors import UserError

Engine = Literal["auto", "eager", "graph", "compile"]
ENGINES: tuple[Engine, ...] = ("auto", "eager", "graph", "compile")
# How far logits of a recorded forward may be from the eager one's, relative to the largest: bf16 keeps 8 bits, and
# fused operations round at other places
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
PROBE = 300  # cached rows behind which new graphs are compared
GROWTH = 4096  # positions: on a GPU every new cache means new graphs


@dataclass(frozen=True)
class Output:
    """logits [rows asked for, V] in the model's dtype; features [R, A*H] or None; picked [rows, 2 + top-k] or None
    (`static.Outputs`), where the forward itself picked the tokens."""

    logits: torch.Tensor
    features: torch.Tensor | None
    picked: torch.Tensor | None = None


class Target:
    """Drives `model` through the cache; `vocab_size` is the rows of its lm_head, not the tokenizer's length."""

    def __init__(self, model: PreTrainedModel, path: str = "", engine: Engine = "auto") -> None:
        self.model = model.eval().requires_grad_(False)
        self.path = path
        self.config = model.config.get_text_config()
        self.device, self.dtype = model.device, model.dtype
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        self.layers = model.get_decoder().layers
        self.max_positions = getattr(self.config, "max_position_embeddings", None) or 1 << 30
        self.cache: KVCache | None = None
        self._captured: dict[int, object] = {}
        heads = self.config.num_attention_heads
        self.kv_heads = getattr(self.config, "num_key_value_heads", None) or heads
        self.groups = heads // self.kv_heads
        self.head_dim = getattr(self.config, "head_dim", None) or self.config.hidden_size // heads
        self._refuse()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # streams, events and graphs belong to the current device
            # cuDNN's attention builds a plan of tens of milliseconds for every new length: for each step of an eager run
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.engine = self._chosen(engine)
        """The engine in use; a recorded one that fails falls back to the next simpler."""
        self.graphs = Graphs(model) if self.engine == "graph" and self.device.type == "cpu" else None
        self.static: StaticForward | None = None
        model.set_attn_implementation(NAME)

    def reserve(self, positions: int, slots: int = 1) -> None:
        """Make room for `positions` rows in each of `slots`; the old cache is kept where it is large enough."""
        if self.cache and self.room >= positions and self.cache.slots >= slots:
            return
        self.cache, self.static = None, None  # free before allocating anew
        forget_caches(self.model)
        step = GROWTH if self._static else 256
        rounded = (positions + self._spare + step - 1) // step * step
        devices = [next(layer.parameters()).device for layer in self.layers]
        self.cache = KVCache(devices, slots, rounded, self.kv_heads, self.head_dim, self.dtype)
        if self._static:
            self.static = StaticForward(self.model, self.cache, fused=self.engine == "compile")

    @property
    def room(self) -> int:
        """Positions of the cache that a text may take."""
        return self.cache.positions - self._spare

    @property
    def _static(self) -> bool:
        return self.engine != "eager" and self.graphs is None

    @property
    def _spare(self) -> int:
        return MOST_ROWS if self._static else 0

    def _chosen(self, engine: Engine) -> Engine:
        """What can run here: recording is for full attention on one device, fusing for a GPU."""
        kinds = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        windowed = kinds != {"full_attention"} or (getattr(self.config, "sliding_window", None) or 0) > 0
        cuda, devices = self.device.type == "cuda", {p.device for p in self.model.parameters()}
        # without the kernel a graph would attend the whole cache in every step, whatever the text's length
        if windowed or len(devices) > 1 or (cuda and not uses_kernel(self.device, self.head_dim)):
            return "eager"
        return ("compile" if cuda else "graph") if engine == "auto" else engine

    def _refuse(self) -> None:
        """Models whose text would depend on how many rows are run at once, or whose layers keep another state."""
        rope = getattr(self.config, "rope_parameters", None) or getattr(self.config, "rope_scaling", None) or {}
        kinds = {rope.get("rope_type") or rope.get("type")} if isinstance(rope, dict) else set()
        if odd := kinds & {"dynamic", "longrope"}:
            raise UserError(f"rotary embeddings of type '{odd.pop()}' depend on the longest position of a forward, so drafting"
                            f" would change the text; such models are not supported")
        layers = set(getattr(self.config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
        if layers:
            raise UserError(f"layers of type {', '.join(sorted(layers))} are not supported; full and sliding attention are")

    def capture(self, layers: tuple[int, ...]) -> None:
        """From now on collect the residual stream entering these layers (through forward pre-hooks)."""
        for layer in layers:
            if not 0 <= layer < len(self.layers):
                raise UserError(f"feature layer {layer} does not exist: the target has layers 0..{len(self.layers) - 1}")
            if layer not in self._captured:
                hook = _capture_hook(layer)
                self._captured[layer] = self.layers[layer].register_forward_pre_hook(hook, with_kwargs=True)

    def release(self) -> None:
        """Stop collecting features."""
        for handle in self._captured.values():
            handle.remove()
        self._captured.clear()

    @torch.inference_mode()
    def forward(self, segments: list[Segment], last_only: bool = False, feature_layers: tuple[int, ...] = (),
                choice: Choice | None = None, topk: int = 0) -> Output:
        """One forward over all rows of all segments; with `last_only` only the very last row's logits [1, V].

        A decoding step says with `choice` and `topk` what it will want of the logits: where the engine picks tokens
        itself they are `Output.picked`. Without it (a prompt) nothing is recorded.
        """
        self.capture(feature_layers)
        recorded = choice and self.static and self.static.takes(segments)
        if recorded and (output := self._recorded(segments, feature_layers, choice, topk)):
            return _last(output) if last_only else output
        if self.static:
            self.static.flush()
        step = Step(self.cache, segments, self.dtype, self.device)
        if self.graphs and len(segments) == 1 and len(segments[0].tokens) <= GROUPED_ROWS:
            mask = step.mask(0, self.groups, None)
            if found := self.graphs.run(step, segments[0], mask, feature_layers):
                return Output(found[0][-1:] if last_only else found[0], found[1] if feature_layers else None)
        return self._eager(step, last_only, feature_layers)

    def keep(self, slot: int, start: int, path: list[int]) -> None:
        """Keep the accepted rows `start + path` of a step as rows `start...`."""
        if self.static and slot == SLOT:
            self.static.keep(start, path)
        else:
            self.cache.keep(slot, start, path)

    @torch.inference_mode()
    def prepare(self, nodes: int, feature_layers: tuple[int, ...] = (), topk: int = 0, sampled: bool = False) -> bool:
        """Record every graph that drafts of up to `nodes` nodes may need, so that none is recorded while timing.

        False where nothing is recorded ahead: eagerly, or on a CPU.
        """
        start = min(PROBE, self.room - MOST_ROWS)
        for rows in reversed([b for b in BUCKETS if b <= bucket(min(nodes, MOST_ROWS))]):  # largest first: memory is shared
            if not self.static:
                return False
            self.cache.data[:, :, SLOT, :start].normal_()  # what a graph is compared on should look like data
            choice = Choice(1.0, [0] * rows) if sampled else Choice()
            segment = Segment(SLOT, start, [0] * rows, range(start, start + rows))
            self.forward([segment], feature_layers=feature_layers, choice=choice, topk=topk)
        return self.static is not None

    def _recorded(self, segments: list[Segment], feature_layers: tuple[int, ...], choice: Choice, topk: int) -> Output | None:
        """The step by a captured graph; a new one is compared with the eager forward, and given up where it differs."""
        (segment,) = segments
        key = self.static.key(segment, choice, feature_layers, topk)
        known = self.static.has(key)
        try:
            outputs = self.static.run(key, segment, choice)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Triton, Inductor and CUDA each raise types of their own
            return self._simpler(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
                                 segments, feature_layers, choice, topk)
        if not known and (wrong := self._differs(segment, outputs, feature_layers)):
            return self._simpler(wrong, segments, feature_layers, choice, topk)
        return Output(outputs.logits, outputs.features, outputs.picked)

    def _differs(self, segment: Segment, outputs: Outputs, feature_layers: tuple[int, ...]) -> str:
        """What of a new graph's results is not the eager forward's: logits, features, cached rows, picks; or nothing."""
        rows = self.static.stored(segment.start, len(segment.tokens))
        cached = rows.clone()
        eager = self._eager(Step(self.cache, [segment], self.dtype, self.device), False, feature_layers)
        pairs = {"logits": (outputs.logits, eager.logits), "cached rows": (cached, rows),
                 "features": (outputs.features, eager.features)}
        for what, (mine, theirs) in pairs.items():
            if mine is not None:
                difference = ((mine - theirs).abs().max() / theirs.abs().max()).item()
                if not difference <= TOLERANCE[self.dtype]:
                    return f"{what} differ by {difference:.1%}"
        picked = torch.equal(outputs.picked[:, 0], outputs.logits.argmax(-1))
        return "" if picked else "picked tokens are not the logits' largest"

    def _simpler(self, why: str, segments: list[Segment], feature_layers: tuple[int, ...], choice: Choice, topk: int,
                 ) -> Output | None:
        """Give up the engine in use for the next simpler one, and say so."""
        simpler = "graph" if self.engine == "compile" else "eager"
        warnings.warn(f"engine '{self.engine}' does not work here ({why}); going on with '{simpler}'", stacklevel=2)
        self.engine = simpler
        self.static = StaticForward(self.model, self.cache) if simpler == "graph" else None
        return self._recorded(segments, feature_layers, choice, topk) if self.static else None

    def _eager(self, step: Step, last_only: bool, feature_layers: tuple[int, ...]) -> Output:
        segments = step.segments
        ids = torch.tensor([[t for s in segments for t in s.tokens]], device=self.device)
        positions = torch.tensor([[p for s in segments for p in s.positions]], device=self.device)
        with uncompiled():
            logits = self.model(input_ids=ids, position_ids=positions, use_cache=False,
                                logits_to_keep=1 if last_only else 0, step=step).logits[0]
        features = None
        if feature_layers:
            features = torch.cat([step.features[i].to(self.device) for i in feature_layers], dim=-1)
        return Output(logits, features)


def _last(output: Output) -> Output:
    """The last row alone, as a view."""
    return Output(output.logits[-1:], output.features, output.picked[-1:])


def _capture_hook(layer: int):
    def hook(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        kwargs["step"].features[layer] = hidden[0]

    return hook
