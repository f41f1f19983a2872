"""Models, draft heads and drafters of published shapes with random weights (for `gpu.py`).

A step's time depends on shapes and not on weights, so nothing has to be downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen3Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from model import methods
from model.contract import Drafter
from model.drafters import eagle3, rest, sps
from model.eagle3.checkpoint import default_layers
from model.eagle3.head import Eagle3Head, HeadConfig
from model.engine.model import Model
from model.index import suffix_array


def _qwen3(
    vocab: int,
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    kv_heads: int,
    dim: int,
    tied: bool,
) -> PretrainedConfig:
    return Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=dim,
        tie_word_embeddings=tied,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        max_position_embeddings=40960,
    )


def _llama_8b() -> PretrainedConfig:
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        rope_theta=5e5,
        rms_norm_eps=1e-5,
        max_position_embeddings=131072,
    )


SHAPES: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen3-0.6b": lambda: _qwen3(151936, 1024, 3072, 28, 16, 8, 128, True),
    "qwen3-4b": lambda: _qwen3(151936, 2560, 9728, 36, 32, 8, 128, True),
    "qwen3-8b": lambda: _qwen3(151936, 4096, 12288, 36, 32, 8, 128, False),
    "qwen3-14b": lambda: _qwen3(151936, 5120, 17408, 40, 40, 8, 128, False),
    "llama-8b": _llama_8b,
    "tiny": lambda: _qwen3(512, 64, 128, 8, 4, 2, 16, False),
    "tiny-draft": lambda: _qwen3(512, 32, 64, 2, 4, 2, 16, True),
}
"""From the published configurations (Qwen3 technical report, table 1; the config.json of
DeepSeek-R1-Distill-Llama-8B), and two for a CPU."""
DRAFT_SHAPES = {"tiny": "tiny-draft"}
"""Every other shape drafts with the 0.6B model's, its vocabulary replaced by the target's."""
DRAFT_VOCABULARY = 32_000
"""Tokens that published EAGLE-3 heads can draft."""
SPS_TOKENS = 5
STORE_DOCUMENTS, STORE_DOCUMENT_TOKENS = 500, 1000


def random_network(
    shape: str,
    device: str,
    dtype: torch.dtype,
    layers: int | None = None,
    vocab: int | None = None,
) -> PreTrainedModel:
    """The shape with random weights, made on its device; with other layers or tokens if given."""
    config = SHAPES[shape]()
    if layers:
        config.num_hidden_layers = layers
        config.layer_types = ["full_attention"] * layers
    if vocab:
        config.vocab_size = vocab
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).to(dtype).eval()


def random_head(model: Model) -> Eagle3Head:
    """An EAGLE-3 head of the target's shape, with the published size of draft vocabulary."""
    config, shape = model.config, model.shape
    head_config = HeadConfig(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab=shape.vocab_size,
        draft_vocab=min(DRAFT_VOCABULARY, shape.vocab_size),
        target_hidden=config.hidden_size,
        feature_layers=default_layers(config.num_hidden_layers),
    )
    with torch.device(model.device):
        head = Eagle3Head(head_config)
    for weight in head.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.02)
    return head.to(model.device, model.dtype).eval().requires_grad_(False)


def random_drafter(method: str, model: Model, shape: str, text: list[int]) -> Drafter:
    """The method with its published settings; whatever weights it needs are random.

    `shape` is the target's; `text` goes into the datastore of REST.
    """
    if method == "sps":
        return _sps(model, shape)
    if method == "eagle3":
        return _eagle3(model)
    parsed = methods.parse(method)
    if parsed.inner and parsed.inner.name == "eagle3":
        return parsed.module.build(parsed.module.Config(), model, _eagle3(model))
    if method == "rest":
        return _rest(model, text)
    return methods.load(method, model)


def _sps(model: Model, shape: str) -> Drafter:
    config = sps.Config(sps_tokens=SPS_TOKENS, sps_confidence=0.0)
    draft_shape = DRAFT_SHAPES.get(shape, "qwen3-0.6b")
    network = random_network(draft_shape, str(model.device), model.dtype, vocab=model.vocab_size)
    return sps.Sps(config, Model(network, engine=model.engine), model.vocab_size)


def _eagle3(model: Model) -> Drafter:
    embedding = model.network.get_input_embeddings().weight
    recorded = eagle3.ways_to_record(model.engine)
    return eagle3.Eagle3(eagle3.Config(), random_head(model), embedding, recorded)


def _rest(model: Model, text: list[int]) -> Drafter:
    size = (STORE_DOCUMENTS, STORE_DOCUMENT_TOKENS)
    random_documents = np.random.default_rng(0).integers(0, model.vocab_size, size).tolist()
    header = {"vocab_size": model.vocab_size, "tokenizer": ""}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "store"
        suffix_array.build(file, [*random_documents, text], header)
        store = suffix_array.open_file(file)  # mapped into memory: the file may go
    return rest.Rest(rest.Config(), store)
