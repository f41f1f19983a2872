"""The model's forward as one recorded graph: on a CPU a small model spends half its step in Python and dispatch.

TorchScript records the unpatched model once, with the same attention written as a script function, and replays it
from C++: 5.3 ms become 2.9 ms for twelve layers of hidden size 192 (2.5 ms of which is reading the weights). Lengths
are inputs, so one graph serves every number of rows and every cached length. A graph is used only after it has
reproduced the eager forward; where recording fails the eager path stays.

Shapes: T rows of one sequence, G query heads a key/value head, L rows cached and new, V vocabulary.
"""

import functools
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch

from model.engine.attention import Segment, Step

TOLERANCE = 1e-4  # largest difference of a logit, relative to the largest logit, between graph and eager forward


def attend_cached(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cache: torch.Tensor, layer: int,
                  slot: torch.Tensor, start: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """`attention.py`'s write and attend for one segment: query [1, H, T, D] -> [1, T, H, D]."""
    rows, kv_heads = key.shape[2], key.shape[1]
    begin = int(start)
    end = begin + rows
    both = cache[layer, :, int(slot)]
    both[0, begin:end].copy_(key[0].transpose(0, 1))
    both[1, begin:end].copy_(value[0].transpose(0, 1))
    keys, values = both[0, :end].transpose(0, 1).unsqueeze(0), both[1, :end].transpose(0, 1).unsqueeze(0)
    folded = query.reshape(1, kv_heads, query.shape[1] // kv_heads * rows, query.shape[3])
    out = torch.nn.functional.scaled_dot_product_attention(folded, keys, values, mask, 0.0, False, scale=scaling)
    return out.reshape(1, query.shape[1], rows, query.shape[3]).transpose(1, 2)


@functools.cache
def scripted_attention() -> Any:
    """`attend_cached` as a script function: it is called from recorded graphs with lengths that vary."""
    return torch.jit.script(attend_cached)


@dataclass
class RecordedStep:
    """What the attention needs while a graph is recorded: tensors only, so that nothing is baked in."""

    cache: torch.Tensor
    slot: torch.Tensor
    start: torch.Tensor
    mask: torch.Tensor | None
    features: dict[int, torch.Tensor] = field(default_factory=dict)

    def attend(self, module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
               scaling: float) -> torch.Tensor:
        return scripted_attention()(query, key, value, self.cache, module.layer_idx, self.slot, self.start, self.mask, scaling)


class _Forward(torch.nn.Module):
    """(ids, positions, cache, slot, start[, mask]) -> (logits [T, V], features [T, A*H] or nothing)."""

    def __init__(self, model: torch.nn.Module, feature_layers: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.feature_layers = model, feature_layers

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor, slot: torch.Tensor,
                start: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        step = RecordedStep(cache, slot, start, mask)
        logits = self.model(input_ids=ids, position_ids=positions, use_cache=False, step=step).logits[0]
        if not self.feature_layers:
            return (logits,)
        return logits, torch.cat([step.features[i] for i in self.feature_layers], dim=-1)


class Graphs:
    """Recorded forwards of one model, by (masked, feature layers); a failed one is remembered and not tried again."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._graphs: dict[tuple[bool, tuple[int, ...]], torch.nn.Module | None] = {}

    def run(self, step: Step, segment: Segment, mask: torch.Tensor | None, feature_layers: tuple[int, ...],
            ) -> tuple[torch.Tensor, ...] | None:
        """(logits, features?) of one segment, or None where there is no usable graph."""
        key = (mask is not None, feature_layers)
        inputs = self._inputs(step, segment, mask)
        if key not in self._graphs:
            self._graphs[key] = self._record(inputs, feature_layers)
        graph = self._graphs[key]
        return None if graph is None else graph(*inputs)

    def _inputs(self, step: Step, segment: Segment, mask: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        ids = torch.tensor([list(segment.tokens)])
        positions = torch.tensor([list(segment.positions)])
        fixed = (ids, positions, step.cache.data, torch.tensor(segment.slot), torch.tensor(segment.start))
        return fixed if mask is None else (*fixed, mask)

    def _record(self, inputs: tuple[torch.Tensor, ...], feature_layers: tuple[int, ...]) -> torch.nn.Module | None:
        forward = _Forward(self._model, feature_layers).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript warns of its age and of shapes read in Python
            try:
                expected = forward(*inputs)
                graph = torch.jit.trace(forward, inputs, check_trace=False)
                found = [graph(*inputs) for _ in range(3)][-1]  # the executor rewrites itself in the first runs
            except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
                return None
        same = all((a - b).abs().max() <= TOLERANCE * a.abs().max() for a, b in zip(expected, found))
        return graph if same else None
