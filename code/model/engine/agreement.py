"""Does the engine run a model as the model runs itself? Asked once, before anything is measured.

The engine stores keys and values itself and attends with its own function. A model that keeps other
state, or attends in a way that its attention interface does not tell, would yield other text in
silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from model.engine.forward import Segment
from model.engine.model import Model
from model.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 12
"""Of the probe: run by the model in one piece, by the engine in two."""
CUT = 7
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}
"""Largest difference of a logit, relative to the largest logit."""


def probe(vocab_size: int) -> list[int]:
    """Ids all over the vocabulary."""
    return [(7 + 131 * i) % vocab_size for i in range(TOKENS)]


@torch.inference_mode()
def own_logits(network: PreTrainedModel) -> torch.Tensor:
    """The model's own logits of the probe [TOKENS, V]; asked before the engine takes it over."""
    vocab_size = network.get_output_embeddings().weight.shape[0]
    ids = torch.tensor([probe(vocab_size)], device=network.device)
    return network(input_ids=ids, use_cache=False).logits[0].float().clone()


def build_model(network: PreTrainedModel, path: str, engine: str) -> Model:
    """The engine over this network.

    Raises UserError, with the model's type, where it cannot run it or yields other logits.
    """
    kind = network.config.model_type
    try:
        expected = own_logits(network)
        model = Model(network, path, engine)
        model.reserve(TOKENS)
        difference = _difference(model, expected)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a foreign architecture stumbles over
        raise UserError(
            f"models of type '{kind}' are not supported: the engine cannot run them"
            f" ({type(error).__name__}: {first_line(error)}); {SUPPORTED}"
        ) from None
    if not difference <= TOLERANCE[model.dtype]:
        raise UserError(
            f"models of type '{kind}' are not supported: through the engine their logits differ by"
            f" {difference:.1%} from the model's own; {SUPPORTED}"
        )
    return model


def _difference(model: Model, expected: torch.Tensor) -> float:
    ids = probe(model.vocab_size)
    parts = []
    for begin, end in ((0, CUT), (CUT, TOKENS)):
        output = model.forward([Segment.causal(0, begin, ids[begin:end])])
        parts.append(output.logits.float().clone())
    difference = (torch.cat(parts) - expected).abs().max() / expected.abs().max()
    return difference.item()


SUPPORTED = (
    "decoder-only models with full or sliding-window attention over transformers' attention"
    " interface are, as Llama, Qwen2/3, Mistral, Phi-3, Gemma, OLMo-2 and Granite"
)
