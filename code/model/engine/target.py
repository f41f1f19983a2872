"""A Hugging Face causal language model, unpatched, with the engine's cache: rows in, logits and features out.

Knows nothing of drafts: a caller gives segments (rows of sequences with positions and masks) and gets, for chosen
rows, logits. The same class holds the target and a draft model.

Shapes: R rows of all segments, V vocabulary, H hidden size, A captured layers.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from model.engine.attention import GROUPED_ROWS, NAME, Segment, Step
from model.engine.cache import KVCache
from model.engine.graphs import Graphs
from model.errors import UserError


@dataclass(frozen=True)
class Output:
    """logits [rows asked for, V] in the model's dtype; features [R, A*H] or None."""

    logits: torch.Tensor
    features: torch.Tensor | None


class Target:
    """Drives `model` through the cache; `vocab_size` is the rows of its lm_head, not the tokenizer's length."""

    def __init__(self, model: PreTrainedModel, path: str = "", graphs: bool = True) -> None:
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
        self._refuse()
        self.graphs = Graphs(model) if graphs and self._recordable() else None
        model.set_attn_implementation(NAME)

    def reserve(self, positions: int, slots: int = 1) -> None:
        """Make room for `positions` rows in each of `slots`; the old cache is kept where it is large enough."""
        if self.cache and self.cache.positions >= positions and self.cache.slots >= slots:
            return
        head_dim = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
        self.cache = None  # free before allocating anew
        rounded = (positions + 255) // 256 * 256
        devices = [next(layer.parameters()).device for layer in self.layers]
        self.cache = KVCache(devices, slots, rounded, self.kv_heads, head_dim, self.dtype)

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

    def _recordable(self) -> bool:
        """Graphs are for the CPU and for full attention; whatever needs masks by position stays eager."""
        kinds = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        windowed = kinds != {"full_attention"} or (getattr(self.config, "sliding_window", None) or 0) > 0
        return self.device.type == "cpu" and not windowed

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
    def forward(self, segments: list[Segment], last_only: bool = False,
                feature_layers: tuple[int, ...] = ()) -> Output:
        """One forward over all rows of all segments; with `last_only` only the very last row's logits [1, V]."""
        self.capture(feature_layers)
        step = Step(self.cache, segments, self.dtype, self.device)
        if self.graphs and len(segments) == 1 and len(segments[0].tokens) <= GROUPED_ROWS:
            mask = step.mask(0, self.groups, None)
            if found := self.graphs.run(step, segments[0], mask, feature_layers):
                return Output(found[0][-1:] if last_only else found[0], found[1] if feature_layers else None)
        return self._eager(step, last_only, feature_layers)

    def _eager(self, step: Step, last_only: bool, feature_layers: tuple[int, ...]) -> Output:
        segments = step.segments
        ids = torch.tensor([[t for s in segments for t in s.tokens]], device=self.device)
        positions = torch.tensor([[p for s in segments for p in s.positions]], device=self.device)
        logits = self.model(input_ids=ids, position_ids=positions, use_cache=False, past_key_values=None,
                            logits_to_keep=1 if last_only else 0, step=step).logits[0]
        features = None
        if feature_layers:
            features = torch.cat([step.features[i].to(self.device) for i in feature_layers], dim=-1)
        return Output(logits, features)


def _capture_hook(layer: int):
    def hook(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        kwargs["step"].features[layer] = hidden[0]

    return hook
