"""A Hugging Face causal language model, unpatched, over the engine's cache: rows in, logits out.

Knows nothing of drafts: a caller gives segments (rows of sequences with positions and masks) and
says what it wants of them. The target is one, and so is a draft model. How a forward is run is the
backends' matter (`backends/`): the first that takes it answers.

Shapes: R rows of all segments, V vocabulary, A feature layers, H hidden size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from model.engine import backends
from model.engine.attention import use_packed_rows
from model.engine.backends import Backend, BackendFailed
from model.engine.cache import KVCache
from model.engine.forward import Draw, Output, Segment, Wanted
from model.engine.noise import PositionNoise
from model.engine.shape import shape_of
from model.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LOGITS = Wanted()
PROBED_TEMPERATURE = 0.8
"""The logits of every row, and nothing else."""


class Model:
    """Runs `network` through a cache; raises UserError for a network that cannot run losslessly."""

    def __init__(self, network: PreTrainedModel, path: str = "", engine: str = "auto") -> None:
        self.network = network.eval().requires_grad_(False)
        self.path = path
        self.config: PretrainedConfig = network.config.get_text_config()
        self.shape = shape_of(network)
        self.device, self.dtype = network.device, network.dtype
        self.layers = network.get_decoder().layers
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # streams and graphs belong to the current device
            # cuDNN's attention builds a plan of tens of milliseconds for every new length
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._engines = backends.chosen(engine, self.shape)
        self._backends: list[Backend] = []
        self._cache: KVCache | None = None
        self._spare = 0
        self._feature_hooks: dict[int, torch.utils.hooks.RemovableHandle] = {}
        use_packed_rows(network)

    @property
    def engine(self) -> str:
        """The engine in use: one that fails is given up for the next simpler."""
        return self._engines[0]

    @property
    def vocab_size(self) -> int:
        return self.shape.vocab_size

    @property
    def max_positions(self) -> int:
        return self.shape.max_positions

    @property
    def cache(self) -> KVCache:
        assert self._cache is not None, "reserve first"
        return self._cache

    @property
    def room(self) -> int:
        """Positions of the cache that a text may take."""
        return self.cache.positions - self._spare

    @property
    def backend(self) -> Backend:
        """What runs decoding steps."""
        return self._backends[0]

    def reserve(self, positions: int, slots: int = 1) -> bool:
        """Make room for `positions` rows in each of `slots`.

        A cache that is large enough is kept; returns whether a new one was made.
        """
        if self._cache and self.room >= positions and self._cache.slots >= slots:
            return False
        self._release()
        first = backends.load(self.engine)
        needed, step = positions + first.spare_rows, first.growth
        self._spare = first.spare_rows
        self._cache = KVCache(
            self.shape.layer_devices,
            slots,
            positions=(needed + step - 1) // step * step,
            kv_heads=self.shape.kv_heads,
            head_dim=self.shape.head_dim,
            dtype=self.dtype,
        )
        self._make_backends()
        return True

    def _release(self) -> None:
        """Free the cache, and what holds on to it, before a new one is allocated."""
        for backend in self._backends:
            backend.close()
        self._backends = [backend for backend in self._backends if backend.outlives_cache]
        self._cache = None

    def _make_backends(self) -> None:
        """The backend in use, and `eager` behind it for what it does not take."""
        kept = {type(backend): backend for backend in self._backends}
        self._backends = []
        for name in dict.fromkeys([self._engines[0], self._engines[-1]]):
            kind = backends.load(name)
            if kind in kept:
                kept[kind].use(self.cache)
            backend = kept.get(kind) or kind(self.network, self.cache, self.shape)
            self._backends.append(backend)

    @torch.inference_mode()
    def forward(self, segments: list[Segment], wanted: Wanted = LOGITS) -> Output:
        """One forward over all rows of all segments; they are stored in the cache.

        The output holds the rows' logits [R, V] (with `last_only` the last row's) and is valid
        until the next forward.
        """
        self._collect(wanted.feature_layers)
        while True:
            backend = next(b for b in self._backends if b.takes(segments, wanted))
            for other in self._backends:
                if other is not backend:
                    other.flush()
            try:
                return backend.run(segments, wanted)
            except BackendFailed as failure:
                self._give_up(failure)

    def _give_up(self, failure: BackendFailed) -> None:
        """Go on with the next simpler engine, and say so."""
        given_up, simpler = self._engines[:2]
        warnings.warn(
            f"engine '{given_up}' does not work here ({failure}); going on with '{simpler}'",
            stacklevel=4,
        )
        self.backend.flush()
        self.backend.close()
        self._engines = self._engines[1:]
        self._make_backends()

    def keep(self, slot: int, start: int, path: list[int]) -> None:
        """Keep the accepted rows `start + path` of a step as rows `start...`."""
        self.backend.keep(slot, start, path)

    @torch.inference_mode()
    def prepare(self, nodes: int, wanted: Wanted, draws: bool = False) -> bool:
        """Record every graph that drafts of up to `nodes` nodes may need, before anything is timed.

        `draws`: tokens will be drawn by the forward. False where nothing is recorded ahead.
        """
        recorded: bool | None = None
        while recorded is None:
            recorded = self._record(self.backend, nodes, wanted, draws)
        return recorded

    def _record(self, backend: Backend, nodes: int, wanted: Wanted, draws: bool) -> bool | None:
        """Whether this backend recorded anything; None where it was given up on the way."""
        probes = backend.probes(nodes)
        for segments in probes:
            keys: list[int] = []
            for segment in segments:
                keys += PositionNoise(len(segment)).keys(list(segment.positions))
            draw = Draw(PROBED_TEMPERATURE, keys) if draws else None
            step = replace(wanted, last_only=False, draw=draw, is_step=True)
            self.forward(segments, step)
            if self.backend is not backend:
                return None
        return bool(probes)

    def _collect(self, layers: tuple[int, ...]) -> None:
        """Forwards hand the residual stream entering these layers, and no others, to their step."""
        for layer in [layer for layer in self._feature_hooks if layer not in layers]:
            self._feature_hooks.pop(layer).remove()
        for layer in layers:
            if layer in self._feature_hooks:
                continue
            if not 0 <= layer < len(self.layers):
                raise UserError(
                    f"feature layer {layer} does not exist:"
                    f" the target has layers 0..{len(self.layers) - 1}"
                )
            hook = _feature_hook(layer)
            handle = self.layers[layer].register_forward_pre_hook(hook, with_kwargs=True)
            self._feature_hooks[layer] = handle


def _feature_hook(layer: int) -> Callable[[torch.nn.Module, tuple, dict], None]:
    def hook(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        kwargs["step"].features[layer] = hidden[0]

    return hook
