"""EAGLE-3: the head's cache against one full forward, the tree against explicit pointers,
checkpoints in every dialect.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from model.eagle3.checkpoint import default_layers, load_head, save_head
from model.eagle3.head import Eagle3Head, HeadConfig
from model.eagle3.tree import DraftState, HeadRows, TreeShape, layer
from model.errors import UserError
from tests.conftest import VOCAB, qwen3
from training.corpus import Text, pad
from training.eagle3 import Teacher, roll_out

CONFIGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "configs" / "eagle3"


def head_of(**changes) -> Eagle3Head:
    torch.manual_seed(3)
    base = dict(
        hidden=32,
        intermediate=48,
        heads=4,
        kv_heads=2,
        head_dim=16,
        vocab=VOCAB,
        draft_vocab=40,
        target_hidden=32,
        feature_layers=(2, 4, 5),
    )
    head = Eagle3Head(HeadConfig(**{**base, **changes}))
    head.d2t.copy_(torch.arange(len(head.d2t)) % 3)
    head.d2t.copy_(
        torch.sort(torch.randperm(VOCAB)[: len(head.d2t)]).values - torch.arange(len(head.d2t))
    )
    for parameter in head.parameters():
        parameter.data.normal_(std=0.3)
    return head.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def material():
    torch.manual_seed(4)
    return torch.randn(60, 96), torch.randint(0, VOCAB, (60,)).tolist(), torch.randn(VOCAB, 32)


VARIANTS = [
    {},
    {"qk_norm": True},
    {"norm_before_residual": True, "norm_before_fc": True},
    {"fc_norm": True},
    {"feed_normed": True},
    {"kv_heads": 4},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_catching_up_in_pieces_equals_one_forward(variant, material):
    features, tokens, embedding = material
    head = head_of(**variant)
    whole, pieces = (DraftState(head, embedding, 128) for _ in range(2))
    whole.catch_up(features, tokens)
    at = 0
    for size in (7, 1, 1, 20, 3, 28):
        pieces.catch_up(features[at : at + size], tokens[at : at + size])
        at += size
        if size == 20:
            pieces.grow(
                TreeShape(3, 2, 8)
            )  # what is drafted and discarded leaves the stable rows alone
    assert whole.stable == pieces.stable == 60
    torch.testing.assert_close(whole.last, pieces.last, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.keys[:60], pieces.keys[:60], atol=1e-5, rtol=1e-4)


def reference_tree(
    head: Eagle3Head, state: DraftState, k: int, depth: int, nodes: int
) -> list[tuple[int, ...]]:
    """Grow the tree one path at a time, each by its own plain forward; returns the kept paths."""

    def continuation(path: list[int]) -> torch.Tensor:
        alone = DraftState(head, state.embedding, 256)
        alone.keys[: state.stable], alone.values[: state.stable] = (
            state.keys[: state.stable],
            state.values[: state.stable],
        )
        out, at = state.last, state.stable
        for i, token in enumerate(path):
            position = slice(state.stable + i, state.stable + i + 1)
            rows = HeadRows(
                alone,
                head.next_feature(out),
                torch.tensor([token]),
                alone.cos[position],
                alone.sin[position],
                at,
                mask=None,
                k=1,
            )
            out = layer([rows])
            at += 1
        return head.logits(out).float().log_softmax(-1)[0]

    candidates: list[tuple[float, tuple[int, ...]]] = []
    frontier = [(0.0, ())]
    for level in range(depth + 1):
        grown = []
        for score, path in frontier:
            best = continuation(list(path)).topk(k)
            grown += [
                (score + float(v), (*path, int(state.ids[i])))
                for v, i in zip(best.values, best.indices)
            ]
        candidates += grown
        frontier = sorted(grown, key=lambda c: -c[0])[:k]
        assert level <= depth
    return [p for _, p in sorted(candidates, key=lambda c: -c[0])[:nodes]]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("k, depth, nodes", [(4, 3, 20), (1, 4, 5), (3, 0, 2), (10, 2, 59)])
def test_the_tree_is_the_one_of_explicit_pointers(variant, k, depth, nodes, material):
    features, tokens, embedding = material
    head = head_of(**variant)
    state = DraftState(head, embedding, 256)
    state.catch_up(features, tokens)
    tree = state.grow(TreeShape(k, depth, nodes))
    paths: list[tuple[int, ...]] = [()]
    for i, (token, parent) in enumerate(zip(tree.tokens, tree.parents)):
        assert parent <= i
        paths.append((*paths[parent], token))
    assert set(paths[1:]) == set(reference_tree(head, state, k, depth, nodes))
    assert len(set(paths)) == len(paths)


def test_ties_keep_the_set_closed_under_ancestors(material):
    """Scores rounded to fp16 tie often: parents must be kept before their children."""
    features, tokens, embedding = material
    head = head_of()
    head.lm_head.weight.data.mul_(0)  # all scores equal
    state = DraftState(head, embedding, 256)
    state.catch_up(features, tokens)
    tree = state.grow(TreeShape(5, 3, 30))
    assert len(tree.tokens) == 30 and all(p <= i for i, p in enumerate(tree.parents))


def test_published_size_of_the_tree(material):
    features, tokens, embedding = material
    state = DraftState(head_of(), embedding, 256)
    state.catch_up(features, tokens)
    tree = state.grow(TreeShape(10, 5, 59))
    depths = [0]
    for parent in tree.parents:
        depths.append(depths[parent] + 1)
    assert len(tree.tokens) == 59 and max(depths) <= 6
    assert len(state.grow(TreeShape(10, 5, 1000)).tokens) == 10 + 5 * 100


def test_training_unrolls_what_drafting_does(material):
    """Step s of the training-time test equals the drafted chain's step s: feature, position and
    attention agree.
    """
    head, target = head_of(), qwen3()
    embedding = target.get_input_embeddings().weight
    ids = torch.randint(0, VOCAB, (20,)).tolist()
    with torch.no_grad():
        output = target(torch.tensor([ids]), output_hidden_states=True)
        features = torch.cat([output.hidden_states[i] for i in (2, 4, 5)], dim=-1)
        outs: list[torch.Tensor] = []
        finish = head.finish
        head.finish = lambda *a: outs.append(finish(*a)) or outs[-1]
        batch = pad([Text(ids[:3], ids[3:])])
        roll_out(head, embedding, batch, Teacher(features, output.logits), 4)
        head.finish = finish
    t = 9
    state = DraftState(head, embedding, 64)
    state.catch_up(features[0, : t + 1], ids[1 : t + 2])
    torch.testing.assert_close(outs[0][0, t], state.last[0], atol=1e-5, rtol=1e-4)
    out = state.last
    for s in range(1, 4):  # drafted rows attend the stable rows and the earlier drafted ones
        position = slice(t + s, t + s + 1)
        token = torch.tensor([ids[t + 1 + s]])
        cos, sin = state.cos[position], state.sin[position]
        feature = head.next_feature(out)
        out = layer([HeadRows(state, feature, token, cos, sin, t + s, mask=None, k=1)])
        torch.testing.assert_close(outs[s][0, t], out[0], atol=1e-5, rtol=1e-4)


# --- checkpoints ----------------------------------------------------------------------------------
TARGET = SimpleNamespace(hidden_size=32, num_hidden_layers=12)


def written(folder: Path, config: dict, tensors: dict, as_bin: bool = False) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if as_bin:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    return str(folder)


def published(**changes) -> dict:
    """A config in the words of the public SafeAILab / AngelSlim heads, small."""
    return {
        "architectures": ["Eagle3LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 40960,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": None,
        "vocab_size": VOCAB,
        "draft_vocab_size": 40,
        **changes,
    }


def tensors_of(head: Eagle3Head, membership: bool = True) -> dict[str, torch.Tensor]:
    found = dict(head.state_dict())
    if membership:
        ids = torch.arange(len(head.d2t)) + head.d2t
        found["t2d"] = torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, ids, True)
    return found


def test_safeailab_layout(tmp_path):
    head = head_of()
    for i, as_bin in enumerate((True, False)):
        found = load_head(
            written(tmp_path / str(i), published(), tensors_of(head), as_bin), TARGET, VOCAB
        )
        assert found.config.rope_theta == 1e6 and found.config.feature_layers == default_layers(
            12
        ) == (2, 6, 9)
        assert found.config.trained_length == 40960 and found.config.head_dim == 16
        assert all(
            torch.equal(a, b)
            for a, b in zip(found.state_dict().values(), head.state_dict().values())
        )


def test_rope_base_is_10000_where_none_is_named(tmp_path):
    config = published()
    del config["rope_theta"]
    assert (
        load_head(
            written(tmp_path / "h", config, tensors_of(head_of())), TARGET, VOCAB
        ).config.rope_theta
        == 10_000
    )


def test_head_dim_comes_from_the_tensor(tmp_path):
    head = head_of(head_dim=24)
    assert (
        load_head(
            written(tmp_path / "h", published(), tensors_of(head)), TARGET, VOCAB
        ).config.head_dim
        == 24
    )


def test_specforge_layout(tmp_path):
    """Same names, optional fc_norm, layer ids named by the layer whose output is taken."""
    head = head_of(fc_norm=True)
    config = published(
        architectures=["LlamaForCausalLMEagle3"],
        eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 5, 8]},
    )
    found = load_head(written(tmp_path / "h", config, tensors_of(head)), TARGET, VOCAB)
    assert (
        found.config.fc_norm
        and found.config.feature_layers == (2, 6, 9)
        and not found.config.feed_normed
    )


def test_speculators_layout(tmp_path):
    """Nested config, `layers.0.*`, q/k norms, own embeddings, entering-layer ids, the normed output
    fed back.
    """
    head = head_of(
        qk_norm=True, norm_before_residual=True, norm_before_fc=True, own_embeddings=True
    )
    layer = {k: v for k, v in published().items() if k not in ("architectures", "draft_vocab_size")}
    config = {
        "speculators_model_type": "eagle3",
        "transformer_layer_config": {**layer, "model_type": "qwen3"},
        "draft_vocab_size": 40,
        "norm_before_residual": True,
        "norm_before_fc": True,
        "norm_output": True,
        "eagle_aux_hidden_state_layer_ids": [2, 6, 9],
    }
    tensors = {k.replace("midlayer.", "layers.0."): v for k, v in tensors_of(head).items()}
    found = load_head(written(tmp_path / "h", config, tensors), TARGET, VOCAB).config
    assert (
        found.qk_norm
        and found.norm_before_residual
        and found.norm_before_fc
        and found.own_embeddings
    )
    assert found.feed_normed and found.feature_layers == (2, 6, 9)


def test_a_full_draft_vocabulary_needs_no_map(tmp_path):
    head = head_of(draft_vocab=VOCAB)
    tensors = {k: v for k, v in tensors_of(head, membership=False).items() if k != "d2t"}
    found = load_head(
        written(tmp_path / "h", published(draft_vocab_size=VOCAB), tensors), TARGET, VOCAB
    )
    assert found.d2t.abs().sum() == 0


@pytest.mark.skipif(not CONFIGS.exists(), reason="published configs are not here")
@pytest.mark.parametrize(
    "file", sorted(CONFIGS.rglob("*.json")) if CONFIGS.exists() else [], ids=lambda f: f.stem
)
def test_published_configs_read_as_they_are(file, tmp_path):
    """Every public config with a head of its true proportions, thinned to fit: shapes follow the
    tensors.
    """
    config = json.loads(file.read_text())
    heads = config["num_attention_heads"]
    thin = dict(
        hidden=heads * 4,
        intermediate=64,
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        head_dim=8,
        vocab=640,
        draft_vocab=320,
        target_hidden=heads * 4,
    )
    torch.manual_seed(0)
    head = Eagle3Head(HeadConfig(**thin))
    head.d2t.copy_(torch.arange(320))
    tensors = dict(head.state_dict())
    tensors["t2d"] = torch.zeros(640, dtype=torch.bool).index_fill(0, torch.arange(320) * 2, True)
    target = SimpleNamespace(hidden_size=heads * 4, num_hidden_layers=36)
    found = load_head(
        written(tmp_path / "h", {**config, "vocab_size": 640}, tensors), target, 640
    ).config
    assert found.feature_layers == (2, 18, 33) and found.heads == heads
    assert found.rope_theta == float(config.get("rope_theta") or 10_000)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda c, t: t.pop("fc.weight"), "is no EAGLE-3 head: fc.weight"),
        (lambda c, t: t.pop("norm.weight"), "tensors missing: norm.weight"),
        (lambda c, t: t.update(extra=torch.ones(1)), "not understood: extra"),
        (lambda c, t: t.update({"norm.weight": torch.ones(7)}), "norm.weight has shape"),
        (lambda c, t: c.update(vocab_size=99), "a head for a vocabulary of 99"),
        (lambda c, t: c.update(rope_scaling={"rope_type": "yarn"}), "'yarn'"),
        (
            lambda c, t: c.update(eagle_aux_hidden_state_layer_ids=[1, 2, 99]),
            "wants features of layers",
        ),
        (lambda c, t: t.update(t2d=torch.zeros(VOCAB, dtype=torch.bool)), "contradict"),
        (lambda c, t: t.update(d2t=t["d2t"] + 1000), "does not map"),
    ],
)
def test_what_is_wrong_is_said(damage, said, tmp_path):
    config, tensors = published(), tensors_of(head_of())
    damage(config, tensors)
    with pytest.raises(UserError, match=said):
        load_head(written(tmp_path / "h", config, tensors), TARGET, VOCAB)


def test_saved_heads_load(tmp_path):
    head = head_of()
    save_head(head, tmp_path / "h")
    found = load_head(str(tmp_path / "h"), TARGET, VOCAB)
    assert found.config.feature_layers == (2, 4, 5)
    torch.testing.assert_close(found.fc.weight, head.fc.weight, atol=0.01, rtol=0.01)


def test_a_short_trained_window_is_warned_of(target, load, capsys, tmp_path):
    from model.contract import Request
    from model.engine.decode import generate
    from tests.conftest import PROMPT, random_head

    head = random_head(target).head
    save_head(head, tmp_path / "h", {"max_position_embeddings": 20})
    generate(target, load("eagle3", eagle_head=str(tmp_path / "h")), Request(PROMPT, 30))
    assert "was trained on 20 tokens" in capsys.readouterr().err
