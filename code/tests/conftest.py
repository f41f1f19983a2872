"""Small random models and the artefacts drafters need, made once; texts with enough repetition to
draft from.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from model import methods
from model.contract import Drafter
from model.eagle3.checkpoint import save_head
from model.eagle3.head import Eagle3Head, HeadConfig
from model.engine.model import Model
from model.index import suffix_array

settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
settings.load_profile("untimed")
VOCAB = 48
torch.set_num_threads(1)
# and of the programs that tests start: several tests run beside each other
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start clusters come first: at the end a minute or two of one would go on alone."""
    items.sort(key=lambda item: item.path.name != "test_pool.py")


def qwen3(
    seed: int = 0, layers: int = 8, hidden: int = 32, spread: float = 0.6
) -> Qwen3ForCausalLM:
    """A random Qwen3 whose next-token distributions are neither flat nor one-hot."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=hidden,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
        )
    )
    model.lm_head.weight.data.normal_(std=spread)
    return model.eval()


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=1,
            max_position_embeddings=2048,
        )
    )
    model.lm_head.weight.data.normal_(std=0.6)
    return model.eval()


@pytest.fixture(scope="session")
def target() -> Model:
    return Model(qwen3())


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory, target: Model) -> dict[str, dict[str, Any]]:
    """Options that make every drafter run on the random target, by method."""
    folder = tmp_path_factory.mktemp("artefacts")
    qwen3(seed=1, layers=2).save_pretrained(folder / "draft")
    random_head(target).to_folder(folder / "head")
    documents = [[(3 * i * i + j) % VOCAB for i in range(40)] for j in range(20)]
    suffix_array.build(folder / "store", documents, {"vocab_size": VOCAB, "tokenizer": ""})
    eagle3 = {
        "eagle_head": str(folder / "head"),
        "eagle_nodes": 12,
        "eagle_depth": 3,
        "eagle_top_k": 4,
    }
    sps = {"sps_model": str(folder / "draft"), "sps_tokens": 5, "sps_confidence": 0.0}
    return {
        "sps": sps,
        "rest": {"rest_datastore": str(folder / "store")},
        "eagle3": eagle3,
        "sam_eagle3": {**eagle3, "sam_threshold": 2},
        "blend_eagle3": {**eagle3, "blend_nodes": 16},
        "suffix_eagle3": {**eagle3, "suffix_reach": 1.5},
    }


@dataclasses.dataclass(frozen=True)
class SavedHead:
    head: Eagle3Head

    def to_folder(self, folder: Path) -> None:
        save_head(self.head, folder)


def random_head(target: Model, draft_vocab: int = 32) -> SavedHead:
    torch.manual_seed(5)
    head = Eagle3Head(
        HeadConfig(
            hidden=32,
            intermediate=48,
            heads=4,
            kv_heads=2,
            head_dim=16,
            vocab=VOCAB,
            draft_vocab=draft_vocab,
            target_hidden=32,
            feature_layers=(2, 4, 5),
            trained_length=4096,
        )
    )
    head.d2t.copy_(torch.arange(draft_vocab) // 2)
    return SavedHead(head)


@pytest.fixture(scope="session")
def load(target: Model, artefacts: dict[str, dict[str, Any]]):
    """load(name, **options): a drafter for the random target."""

    def loaded(name: str, **options: Any) -> Drafter:
        return methods.load(name, target, {**artefacts.get(name, {}), **options})

    return loaded


PROMPT = [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 7, 8, 1, 2, 3]
METHODS = [
    *methods.names(),
    *("sam[recycling]", "sam[pld]", "blend[recycling]", "suffix[pld]"),
]
