"""The unpatched model, operation by operation: runs everything, and is what others are held to."""

from __future__ import annotations

import contextlib
import sys

import torch

from model.engine.attention import Step
from model.engine.backends import Backend
from model.engine.forward import Output, Segment, Wanted
from model.engine.shape import Shape


def uncompiled() -> contextlib.AbstractContextManager:
    """Run what `torch.compile` compiled operation by operation after all."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled; importing it takes a second
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")


class Eager(Backend):
    rank = 0
    fallback = ""

    @classmethod
    def unsupported(cls, shape: Shape) -> str:
        return ""

    def takes(self, segments: list[Segment], wanted: Wanted) -> bool:
        return True

    def run(self, segments: list[Segment], wanted: Wanted) -> Output:
        device = self.network.device
        step = Step(self.cache, segments, self.network.dtype, device)
        ids = [token for segment in segments for token in segment.tokens]
        positions = [position for segment in segments for position in segment.positions]
        with uncompiled():
            result = self.network(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=1 if wanted.last_only else 0,
                step=step,
            )
        features = None
        if wanted.feature_layers:
            streams = [step.features[layer].to(device) for layer in wanted.feature_layers]
            features = torch.cat(streams, dim=-1)
        return Output(result.logits[0], features)


BACKEND = Eager
