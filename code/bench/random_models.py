"""Models, draft heads and drafters of published shapes with random weights: what time and memory are measured on.

A step's time depends on shapes and not on weights, so nothing has to be downloaded.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen3Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from model import draft
from model.drafters import eagle3, rest, sam_eagle3, sps
from model.eagle3.checkpoint import default_layers
from model.eagle3.head import Eagle3Head, HeadConfig
from model.engine.target import Engine, Target
from model.index import suffix_array


def _qwen3(vocab: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, dim: int, tied: bool) -> PretrainedConfig:
    return Qwen3Config(vocab_size=vocab, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
                       num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=dim, tie_word_embeddings=tied,
                       rope_theta=1e6, rms_norm_eps=1e-6, max_position_embeddings=40960)


# shapes from the published configurations (Qwen3 technical report, table 1; DeepSeek-R1-Distill-Llama-8B config.json)
SHAPES: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen3-0.6b": lambda: _qwen3(151936, 1024, 3072, 28, 16, 8, 128, True),
    "qwen3-4b": lambda: _qwen3(151936, 2560, 9728, 36, 32, 8, 128, True),
    "qwen3-8b": lambda: _qwen3(151936, 4096, 12288, 36, 32, 8, 128, False),
    "qwen3-14b": lambda: _qwen3(151936, 5120, 17408, 40, 40, 8, 128, False),
    "llama-8b": lambda: LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                                    num_attention_heads=32, num_key_value_heads=8, head_dim=128, rope_theta=5e5,
                                    rms_norm_eps=1e-5, max_position_embeddings=131072),
    "tiny": lambda: _qwen3(512, 64, 128, 8, 4, 2, 16, False),
    "tiny-draft": lambda: _qwen3(512, 32, 64, 2, 4, 2, 16, True),
}
DRAFTS = {"tiny": "tiny-draft"}  # every other shape drafts with the 0.6B model's, its vocabulary put in


def random_model(shape: str, device: str, dtype: torch.dtype, layers: int | None = None, vocab: int | None = None,
                 ) -> PreTrainedModel:
    """The shape with random weights, made on its device."""
    config = SHAPES[shape]()
    config.num_hidden_layers = layers or config.num_hidden_layers
    if layers:
        config.layer_types = ["full_attention"] * layers
    config.vocab_size = vocab or config.vocab_size
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).to(dtype).eval()


def random_target(shape: str, device: str, dtype: torch.dtype, engine: Engine, layers: int | None = None) -> Target:
    return Target(random_model(shape, device, dtype, layers), engine=engine)


def random_head(target: Target) -> Eagle3Head:
    """An EAGLE-3 head of the target's shape, with the published draft vocabulary of 32,000."""
    c = target.config
    words = min(32000, target.vocab_size)
    config = HeadConfig(
        hidden=c.hidden_size, intermediate=c.intermediate_size, heads=c.num_attention_heads, kv_heads=target.kv_heads,
        head_dim=c.head_dim, vocab=target.vocab_size, draft_vocab=words, target_hidden=c.hidden_size,
        feature_layers=default_layers(c.num_hidden_layers))
    with torch.device(target.device):
        head = Eagle3Head(config)
    for weight in head.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.02)
    return head.to(target.device, target.dtype).eval().requires_grad_(False)


def drafter(method: str, target: Target, shape: str, text: list[int]) -> draft.Drafter:
    """Method `method` with the published settings, whatever weights it needs random."""
    if method == "sps":
        small = random_model(DRAFTS.get(shape, "qwen3-0.6b"), str(target.device), target.dtype, vocab=target.vocab_size)
        return sps.Sps(sps.Config(draft_tokens=5, draft_confidence=0.0), Target(small, engine=target.engine), target.vocab_size)
    if method in ("eagle3", "sam_eagle3"):
        static = target.device.type == "cuda" and target.engine != "eager"
        head = eagle3.Eagle3(eagle3.Config(), random_head(target), target.model.get_input_embeddings().weight, static)
        return head if method == "eagle3" else sam_eagle3.SamWith(sam_eagle3.Config(), head)
    if method == "rest":
        file = Path(mkdtemp()) / "store"
        documents = [*np.random.default_rng(0).integers(0, target.vocab_size, (500, 1000)).tolist(), text]
        suffix_array.build(file, documents, {"vocab_size": target.vocab_size, "tokenizer": ""})
        return rest.Rest(rest.Config(), suffix_array.open_file(file))
    return draft.load(method, target)
