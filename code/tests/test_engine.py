"""The engine against Hugging Face itself: texts, cache, trees, several sequences at once, features,
recorded graphs.
"""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from model.contract import Draft, Drafter, Needs, Request
from model.engine import decode
from model.engine.cache import KVCache
from model.engine.decode import Member, generate, prefill
from model.engine.forward import Segment, Wanted
from model.engine.model import Model
from model.engine.sequence import Sequence
from model.engine.verify import tree_mask, verify
from model.errors import UserError
from tests.conftest import PROMPT, VOCAB, llama, qwen3


def hugging_face(model, prompt, new):
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()


def mistral(window):
    torch.manual_seed(3)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=window,
            max_position_embeddings=512,
        )
    ).eval()


@pytest.mark.parametrize("graphs", (True, False))
@pytest.mark.parametrize("make", (qwen3, llama, lambda: mistral(8), lambda: mistral(None)))
def test_greedy_text_is_hugging_faces(make, graphs, load):
    expected = hugging_face(make(), PROMPT, 40)
    result = generate(
        Model(make(), engine="torchscript" if graphs else "eager"), load("pld"), Request(PROMPT, 40)
    )
    assert result.output_ids == expected


def test_a_sliding_window_masks_trees_by_position(load):
    """Nodes of a tree lie in other rows than positions: the window must follow positions."""
    target = Model(mistral(6))
    expected = hugging_face(mistral(6), PROMPT, 40)
    for method in ("recycling", "lookahead", "pia"):
        assert generate(target, load(method), Request(PROMPT, 40)).output_ids == expected


def test_chunked_prefill_equals_a_whole_one(monkeypatch, load):
    target, prompt = Model(qwen3()), [i % VOCAB for i in range(70)]
    target.reserve(200)
    (whole,) = prefill(target, [Member(load("eagle3"), Sequence(Request(prompt, 5)))])
    cache = target.cache.data.clone()
    monkeypatch.setattr(decode, "PREFILL_CHUNK", 16)
    (pieces,) = prefill(target, [Member(load("eagle3"), Sequence(Request(prompt, 5)))])
    torch.testing.assert_close(pieces.features, whole.features, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(target.cache.data, cache, atol=1e-5, rtol=1e-4)


def test_node_logits_equal_plain_runs_of_their_paths():
    target = Model(qwen3(), engine="eager")
    target.reserve(100)
    sequence = Sequence(Request(PROMPT, 20))
    prefill(target, [Member(_Nothing(), sequence)])
    tree = Draft([9, 1, 2, 3, 4, 5], [-1, 0, 0, 1, 3, 2], 6)
    depths = tree.depths()
    segment = Segment(
        0,
        len(PROMPT),
        tree.tokens,
        [len(PROMPT) + d for d in depths],
        torch.from_numpy(tree_mask(tree)),
    )
    logits = target.forward([segment]).logits
    for node in range(6):
        path, at = [], node
        while at >= 0:
            path.insert(0, tree.tokens[at])
            at = tree.parents[at]
        ids = PROMPT + path
        plain = Model(qwen3(), engine="eager")
        plain.reserve(100)
        expected = plain.forward([Segment.causal(0, 0, ids)]).logits[-1]
        torch.testing.assert_close(logits[node], expected, atol=1e-4, rtol=1e-4)


class _Nothing:
    needs = Needs()


def test_several_sequences_of_different_lengths_in_one_forward(target):
    """Four ragged sequences with ragged trees, two of them forked from one prompt, against one at a
    time.
    """
    prompts = [PROMPT, PROMPT[:5], PROMPT + PROMPT, PROMPT]
    requests = [
        Request(p, 30, temperature=t, sample=i)
        for i, (p, t) in enumerate(zip(prompts, (0.0, 0.6, 1.0, 0.6)))
    ]
    alone = [generate(target, _drafter(i), r).output_ids for i, r in enumerate(requests)]
    target.reserve(120, slots=4)
    sequences, drafters = [], []
    for i, request in enumerate(requests):
        sequence, drafter = Sequence(request, slot=i), _drafter(i)
        drafter.start(request, *prefill(target, [Member(drafter, sequence)]))
        sequences.append(sequence)
        drafters.append(drafter)
    target.cache.fork(0, 3, len(PROMPT))
    while active := [i for i, s in enumerate(sequences) if not s.emission.finished]:
        work = []
        for i in active:
            context = decode.context(sequences[i], drafters[i], 16)
            work.append((sequences[i], drafters[i].propose(context)))
        outs = verify(target, work, Needs(max_nodes=100, target_topk=8)).outs
        for i, out in zip(active, outs):
            drafters[i].observe(out)
    assert [s.ids for s in sequences] == alone


def _drafter(i: int):
    from model import methods

    return methods.load(("pld", "recycling", "sam", "pia")[i], Model(qwen3(layers=1)))


def test_features_are_hugging_faces_hidden_states(load):
    for graphs in (True, False):
        target = Model(qwen3(), engine="torchscript" if graphs else "eager")
        target.reserve(64)
        wanted = Wanted(feature_layers=(2, 4, 5))
        found = target.forward([Segment.causal(0, 0, PROMPT)], wanted).features
        with torch.inference_mode():
            states = qwen3()(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(
            found, torch.cat([states[i][0] for i in (2, 4, 5)], dim=-1), atol=1e-5, rtol=1e-4
        )


def test_a_recorded_graph_equals_the_eager_forward_at_any_length():
    recorded, eager = Model(qwen3()), Model(qwen3(), engine="eager")
    for target in (recorded, eager):
        target.reserve(256)
    start = 0
    for rows in (3, 1, 1, 17, 1, 5, 64, 1, 2):
        tokens = [(7 * i) % VOCAB for i in range(start, start + rows)]
        segment = Segment.causal(0, start, tokens)
        a, b = (t.forward([segment]).logits for t in (recorded, eager))
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        start += rows
    assert recorded.engine == "torchscript"
    assert recorded.backend.recorded == 2  # with a mask, and without


def test_a_larger_cache_keeps_what_was_recorded():
    """Recording again would take seconds of a generation's time."""
    target, eager = Model(qwen3(), engine="torchscript"), Model(qwen3(), engine="eager")
    segment = Segment.causal(0, 0, PROMPT)
    for positions in (64, 1024):
        for model in (target, eager):
            assert model.reserve(positions)
        logits = [model.forward([segment]).logits for model in (target, eager)]
        torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
        if positions == 64:
            backend = target.backend
    assert target.backend is backend and backend.recorded == 1
    assert target.backend.cache is target.cache


def test_a_graph_that_yields_no_numbers_is_not_used(monkeypatch):
    from model.engine.backends import torchscript

    target, eager = Model(qwen3(), engine="torchscript"), Model(qwen3(), engine="eager")
    trace = torch.jit.trace

    def broken(*args, **kwargs):
        graph = trace(*args, **kwargs)
        return lambda *inputs: tuple(result * float("nan") for result in graph(*inputs))

    monkeypatch.setattr(torchscript.torch.jit, "trace", broken)
    segment = Segment.causal(0, 0, PROMPT)
    for model in (target, eager):
        model.reserve(64)
    assert target.forward([segment]).logits.equal(eager.forward([segment]).logits)


def test_a_model_that_cannot_be_recorded_runs_eagerly(monkeypatch, load):
    def broken(*_, **__):
        raise RuntimeError("cannot record")

    monkeypatch.setattr(torch.jit, "trace", broken)
    assert generate(
        Model(qwen3()), load("vanilla"), Request(PROMPT, 20)
    ).output_ids == hugging_face(qwen3(), PROMPT, 20)


def test_cache_keeps_a_path_in_place():
    cache = KVCache([torch.device("cpu")] * 2, 1, 10, 1, 3, torch.float32)
    cache.data.copy_(torch.arange(cache.data.numel()).view(cache.data.shape))
    before = cache.data.clone()
    cache.keep(0, 2, [0, 1, 2])
    assert torch.equal(cache.data, before)
    cache.keep(0, 2, [0, 2, 3, 6])
    assert torch.equal(cache.data[:, :, 0, 2:6], before[:, :, 0, [2, 4, 5, 8]])


def test_a_cache_in_several_blocks_generates_the_same_text(monkeypatch, load):
    """As on several GPUs: consecutive layers share a block, every block keeps the accepted rows."""
    from model.engine import cache as module

    one = generate(
        Model(qwen3(), engine="eager"), load("recycling"), Request(PROMPT, 40)
    ).output_ids
    monkeypatch.setattr(
        module, "groupby", lambda devices: [(devices[0], devices[:3]), (devices[0], devices[3:])]
    )
    target = Model(qwen3(), engine="eager")
    assert generate(target, load("recycling"), Request(PROMPT, 40)).output_ids == one
    assert [len(block) for block in target.cache.blocks] == [3, 5]


def test_models_whose_text_would_depend_on_the_draft_are_refused():
    odd = llama()
    odd.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(UserError, match="'dynamic'"):
        Model(odd)
    hybrid = qwen3()
    hybrid.config.layer_types = ["linear_attention"] * 8
    with pytest.raises(UserError, match="linear_attention"):
        Model(hybrid)


def test_a_drafter_that_ignores_the_cap_is_stopped(target):
    from tests.test_conformance import Scripted

    greedy = Scripted(lambda c: Draft.chain(c.root, [1] * 9, "greedy"))
    with pytest.raises(ValueError, match="1 to 5 nodes"):
        generate(target, greedy, Request(PROMPT, 20), max_nodes=5)


def test_refusals():
    target = Model(qwen3())
    with pytest.raises(UserError, match="exceed the model's context of 2048"):
        decode.check(target, Request(PROMPT, 3000))
    with pytest.raises(UserError, match="empty"):
        decode.check(target, Request([], 10))
    target.reserve(100)
    with pytest.raises(UserError, match=r"layers 0\.\.7"):
        target.forward([Segment.causal(0, 0, PROMPT)], Wanted(feature_layers=(2, 99)))


def test_no_growth_over_generations(target, load):
    """The cache is allocated once; a longer request grows it, shorter ones reuse it."""
    target.reserve(600)
    block = target.cache.data.data_ptr()
    for i in range(5):
        generate(target, load("vanilla"), Request(PROMPT[: 5 + i], 20))
    assert target.cache.data.data_ptr() == block


def test_half_precision_runs(load):
    target = Model(qwen3().to(torch.bfloat16))
    result = generate(
        target, load("pld"), dataclasses.replace(Request(PROMPT, 30), temperature=0.6)
    )
    assert len(result.output_ids) == 30


def test_few_rows_over_repacked_weights_give_the_same_texts(monkeypatch):
    """Forced for all weights: these models are too small to gain by it."""
    from model.engine import packed_linears

    monkeypatch.setattr(packed_linears, "gains", lambda weights: True)
    packed, plain = Model(qwen3(), engine="torchscript"), Model(qwen3(), engine="eager")
    for model in (packed, plain):
        model.reserve(64)
    logits = {}
    for name, model in (("packed", packed), ("plain", plain)):
        parts = []
        for start, rows in ((0, 7), (7, 1), (8, 3), (11, 30)):
            ids = [(5 * i + start) % 48 for i in range(rows)]
            parts.append(model.forward([Segment.causal(0, start, ids)]).logits.clone())
        logits[name] = torch.cat(parts)
    assert packed.backend.recorded and packed.backend._packed is not None
    assert torch.allclose(logits["packed"], logits["plain"], atol=1e-4)


def test_the_likeliest_tokens_come_with_their_log_probabilities(target):
    target.reserve(100)
    sequence = Sequence(Request(PROMPT, 20))
    prefill(target, [Member(Drafter(), sequence)])
    draft = Draft.chain(sequence.ids[-1], [1, 2, 3], "test")
    logits = target.forward([Segment.causal(0, len(PROMPT), draft.tokens)]).logits.clone()
    out = verify(target, [(sequence, draft)], Needs(max_nodes=4, target_topk=5)).outs[0]
    best = logits.float().log_softmax(-1).topk(5)
    assert out.target_topk.tolist() == best.indices.tolist()
    np.testing.assert_allclose(out.target_logprobs, best.values.numpy(), atol=1e-5)
