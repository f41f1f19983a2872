"""The forward recorded once by TorchScript and replayed from C++: for small models on a CPU.

A small model spends half its step in Python and dispatch: recording makes 5.3 ms 2.9 ms for twelve
layers of hidden size 192, 2.5 ms of which is reading the weights. The unpatched model is recorded
with the same attention written as a script function. Lengths are inputs, so one graph serves every
number of rows and every cached length, another any number of segments. A graph is used only after
it has reproduced the eager forward; a forward that cannot be recorded runs eagerly.

Shapes: T rows of one sequence, S segments, R rows of all, L cached and new rows of the longest,
G query heads a key/value head, H query heads, D head dimension,
V vocabulary, A feature layers.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from model.engine.attention import GROUPED_ROWS, Step
from model.engine.backends import Backend
from model.engine.backends.eager import Eager
from model.engine.cache import KVCache
from model.engine.forward import Output, Segment, Wanted
from model.engine.packed_linears import PackedLinears
from model.engine.shape import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-4
"""Largest difference of a logit between graph and eager forward, relative to the largest logit."""
UNMASKED_INPUTS = 5
"""Ids, positions, cache, slot, start; a mask is the sixth."""
WARM_UP_RUNS = 3
"""TorchScript's executor rewrites the graph during its first runs."""


def attend_cached(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: torch.Tensor,
    layer: int,
    scaling: float,
    slot: torch.Tensor,
    start: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Write and attend, as `attention.py` does, for one segment: query [1, H, T, D] -> [1, T, H,
    D].
    """
    rows, kv_heads = key.shape[2], key.shape[1]
    heads, dim = query.shape[1], query.shape[3]
    begin = int(start)
    end = begin + rows
    both = cache[layer, :, int(slot)]
    both[0, begin:end].copy_(key[0].transpose(0, 1))
    both[1, begin:end].copy_(value[0].transpose(0, 1))
    keys = both[0, :end].transpose(0, 1).unsqueeze(0)
    values = both[1, :end].transpose(0, 1).unsqueeze(0)
    folded = query.reshape(1, kv_heads, heads // kv_heads * rows, dim)
    out = torch.nn.functional.scaled_dot_product_attention(
        folded, keys, values, mask, 0.0, False, scale=scaling
    )
    return out.reshape(1, heads, rows, dim).transpose(1, 2)


def attend_several(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: torch.Tensor,
    layer: int,
    scaling: float,
    cache_rows: torch.Tensor,
    row_of_place: torch.Tensor,
    place_of_row: torch.Tensor,
    slots: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """The same for several segments in one attention, query [1, H, R, D] -> [1, R, H, D].

    Segments are padded to as many places as the longest has rows, their keys to the longest text:
    for eight segments of one row that takes less than half the time of one attention each. What is
    padding `mask` [S, 1, G*T, L] hides. `slots` as of `_slots`.
    """
    kv_heads = key.shape[1]
    heads, dim = query.shape[1], query.shape[3]
    groups = heads // kv_heads
    both = cache[layer]
    both[0].view(-1, kv_heads, dim).index_copy_(0, cache_rows, key[0].transpose(0, 1))
    both[1].view(-1, kv_heads, dim).index_copy_(0, cache_rows, value[0].transpose(0, 1))
    segments, longest = mask.shape[0], mask.shape[3]
    if slots.shape[0] == 1:
        first = int(slots[0])
        cached = both[:, first : first + segments, :longest]
    else:
        cached = both[:, :, :longest].index_select(1, slots)
    places = row_of_place.shape[0] // segments
    placed = query[0].index_select(1, row_of_place)
    by_group = placed.view(kv_heads, groups, segments, places, dim).permute(2, 0, 1, 3, 4)
    out = torch.nn.functional.scaled_dot_product_attention(
        by_group.reshape(segments, kv_heads, groups * places, dim),
        cached[0].transpose(1, 2),
        cached[1].transpose(1, 2),
        mask,
        0.0,
        False,
        scale=scaling,
    )
    by_place = out.reshape(segments, heads, places, dim).transpose(1, 2)
    flat = by_place.reshape(segments * places, heads, dim)
    return flat.index_select(0, place_of_row).unsqueeze(0)


@functools.cache
def scripted(attention: Callable[..., torch.Tensor]) -> Any:
    """As a script function: recorded graphs call it with lengths that vary."""
    return torch.jit.script(attention)


@dataclass
class TracedStep:
    """What attention needs while a graph is traced: tensors only, so that nothing is baked in."""

    attention: Any
    """`attend_cached` or `attend_several`, scripted."""
    cache: torch.Tensor
    layout: tuple[torch.Tensor, ...]
    """Where the rows belong: the attention's last arguments."""
    features: dict[int, torch.Tensor] = field(default_factory=dict)

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        layer = module.layer_idx
        return self.attention(query, key, value, self.cache, layer, scaling, *self.layout)


@dataclass(frozen=True)
class GraphKey:
    """What a graph is recorded for."""

    is_single: bool
    """One segment, which spares the loop over them."""
    is_masked: bool
    feature_layers: tuple[int, ...]


class _Forward(torch.nn.Module):
    """(ids, positions, cache, *layout) -> logits [R, V][, features [R, A*H]]."""

    def __init__(
        self, network: PreTrainedModel, key: GraphKey, packed: PackedLinears | None
    ) -> None:
        super().__init__()
        self.network, self.packed = network, packed
        self.attention = scripted(attend_cached if key.is_single else attend_several)
        self.feature_layers = key.feature_layers

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        cache: torch.Tensor,
        *layout: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        step = TracedStep(self.attention, cache, layout)
        result = self.network(input_ids=ids, position_ids=positions, use_cache=False, step=step)
        if not self.feature_layers:
            return (result.logits[0],)
        streams = [step.features[layer] for layer in self.feature_layers]
        return result.logits[0], torch.cat(streams, dim=-1)


def _slots(segments: list[Segment]) -> list[int]:
    """The slots of all segments; the first alone where they follow one another, so that nothing is
    copied (texts between them may have ended).
    """
    slots = [segment.slot for segment in segments]
    follow = list(range(slots[0], slots[0] + len(slots)))
    return slots[:1] if slots == follow else slots


class TorchScript(Backend):
    rank = 1
    outlives_cache = True  # the cache is an input of what is recorded

    @classmethod
    def unsupported(cls, shape: Shape) -> str:
        if any(device.type != "cpu" for device in shape.devices):
            return "it runs on a CPU"
        return "it attends everything, the model a sliding window" if shape.windowed else ""

    def __init__(self, network: PreTrainedModel, cache: KVCache, shape: Shape) -> None:
        super().__init__(network, cache, shape)
        self._eager = Eager(network, cache, shape)
        self._packed = PackedLinears.of(network)
        self._graphs: dict[GraphKey, torch.nn.Module | None] = {}
        """None: it could not be recorded."""

    def use(self, cache: KVCache) -> None:
        super().use(cache)
        self._eager = Eager(self.network, cache, self.shape)

    def close(self) -> None:
        del self.cache, self._eager

    def takes(self, segments: list[Segment], wanted: Wanted) -> bool:
        return all(len(segment) <= GROUPED_ROWS for segment in segments)

    def run(self, segments: list[Segment], wanted: Wanted) -> Output:
        is_single = len(segments) == 1
        inputs = self._inputs(segments[0]) if is_single else self._inputs_of_several(segments)
        is_masked = not is_single or len(inputs) > UNMASKED_INPUTS
        key = GraphKey(is_single, is_masked, wanted.feature_layers)
        if key not in self._graphs:
            self._graphs[key] = self._record(inputs, key)
        graph = self._graphs[key]
        if graph is None:
            return self._eager.run(segments, wanted)
        results = graph(*inputs)
        output = Output(results[0], results[1] if wanted.feature_layers else None)
        return output.last_row() if wanted.last_only else output

    @property
    def recorded(self) -> int:
        """How many graphs were recorded and reproduce the model."""
        return sum(graph is not None for graph in self._graphs.values())

    def _inputs(self, segment: Segment) -> tuple[torch.Tensor, ...]:
        step = Step(self.cache, [segment], self.network.dtype, self.network.device)
        mask = step.mask(0, self.shape.groups, None)
        fixed = (
            torch.tensor([list(segment.tokens)]),
            torch.tensor([list(segment.positions)]),
            self.cache.data,
            torch.tensor(segment.slot),
            torch.tensor(segment.start),
        )
        return fixed if mask is None else (*fixed, mask)

    def _inputs_of_several(self, segments: list[Segment]) -> tuple[torch.Tensor, ...]:
        step = Step(self.cache, segments, self.network.dtype, self.network.device)
        groups, positions = self.shape.groups, self.cache.positions
        places = max(len(segment) for segment in segments)
        longest = max(segment.start + len(segment) for segment in segments)
        mask = torch.full((len(segments), groups, places, longest), float("-inf"))
        tokens: list[int] = []
        token_positions: list[int] = []
        cache_rows: list[int] = []
        row_of_place: list[int] = []
        place_of_row: list[int] = []
        for index, segment in enumerate(segments):
            rows, end = len(segment), segment.start + len(segment)
            begin = segment.slot * positions + segment.start
            row_of_place += range(len(tokens), len(tokens) + rows)
            row_of_place += [len(tokens)] * (places - rows)
            place_of_row += range(index * places, index * places + rows)
            cache_rows += range(begin, begin + rows)
            tokens += segment.tokens
            token_positions += segment.positions
            own = step.mask(index, groups, None)
            mask[index, :, :rows, :end] = 0.0 if own is None else own.view(groups, rows, end)
            mask[index, :, rows:, 0] = 0.0  # a row that attends nothing would be no number
        return (
            torch.tensor([tokens]),
            torch.tensor([token_positions]),
            self.cache.data,
            torch.tensor(cache_rows),
            torch.tensor(row_of_place),
            torch.tensor(place_of_row),
            torch.tensor(_slots(segments)),
            mask.view(len(segments), 1, groups * places, longest).to(self.network.dtype),
        )

    def _record(self, inputs: tuple[torch.Tensor, ...], key: GraphKey) -> torch.nn.Module | None:
        forward = _Forward(self.network, key, self._packed).eval()
        recording = self._packed.recording() if self._packed else contextlib.nullcontext()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its age, and of shapes read in Python
            try:
                expected = forward(*inputs)
                with recording:
                    graph = torch.jit.trace(forward, inputs, check_trace=False)
                for _ in range(WARM_UP_RUNS):
                    results = graph(*inputs)
            except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
                return None
        for result, reference in zip(results, expected, strict=True):
            difference = (result - reference).abs().max()
            reproduces = difference <= TOLERANCE * reference.abs().max()
            if not reproduces:  # nor is it where the difference is no number
                return None
        return graph


BACKEND = TorchScript
