"""The forward with its lengths on the device, as a GPU captures it: the same texts, trees and noise
as the reference.
"""

import contextlib
import copy
import dataclasses
import gc
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation import inference, verify
from evaluation.running import runner
from model import methods
from model.contract import Draft, Request
from model.drafters import eagle3, sps
from model.eagle3.graph import DraftGraph
from model.eagle3.tree import DraftState, TreeShape
from model.engine.backends import cuda_graph, cuda_graph_fused
from model.engine.backends.cuda_graph import BUCKETS, MOST_NODES, CudaGraph, ancestor_words
from model.engine.cache import KVCache
from model.engine.chain import Chain, ChainGraph
from model.engine.decode import generate, generate_together
from model.engine.device import attention_table, merged_linears
from model.engine.device import capture as capturing
from model.engine.device.attention_table import AttentionTable
from model.engine.device.branch import can_branch, run_if
from model.engine.device.draw import draw
from model.engine.device.launch import DEFAULT, Launch
from model.engine.device.merged_linears import LINEAR, compile_merged, merged, move_together
from model.engine.device.tree_attention import reference, tree_attention
from model.engine.forward import Picked, Segment, Wanted
from model.engine.model import Model
from model.engine.noise import PositionNoise
from model.engine.sampling import target_tokens
from model.errors import UserError
from tests.conftest import METHODS, PROMPT, VOCAB, llama, qwen3
from tests.test_together import mixed

pytestmark = pytest.mark.slow


def graph_model(network) -> Model:
    """A model that runs the graphs' code, which a CPU would not choose by itself."""
    return Model(network, engine="cuda_graph")


@pytest.fixture(scope="module")
def graphed() -> Model:
    return graph_model(qwen3())


@pytest.mark.parametrize("temperature", (0.0, 0.8))
@pytest.mark.parametrize("method", METHODS)
def test_every_method_emits_the_references_tokens(method, temperature, target, graphed, artefacts):
    drafters = [methods.load(method, m, artefacts.get(method, {})) for m in (target, graphed)]
    for sample in range(2):
        request = Request(PROMPT, 60, temperature, sample=sample, question_id="q")
        a, b = (generate(m, d, request) for m, d in zip((target, graphed), drafters))
        assert a.output_ids == b.output_ids
        assert a.accept_lengths == b.accept_lengths
        assert a.sources == b.sources
    assert graphed.engine == "cuda_graph" and graphed.backend.recorded


@pytest.mark.parametrize("method", ("eagle3", "sam_eagle3", "recycling"))
def test_nothing_of_a_step_is_kept_that_the_next_one_overwrites(
    method, monkeypatch, target, artefacts
):
    """A captured graph writes its outputs to the same memory in every replay: so here."""
    honest, memory = CudaGraph.body, {}

    def in_place(name, new):
        if new is None:
            return None
        if name not in memory:
            memory[name] = torch.zeros(cuda_graph.MOST_ROWS, new.shape[1], dtype=new.dtype)
        return memory[name][: len(new)].copy_(new)

    def body(self, key):
        made = honest(self, key)
        return dataclasses.replace(
            made,
            logits=in_place("logits", made.logits),
            features=in_place("features", made.features),
            picked=Picked(in_place("picked", made.picked.packed)),
        )

    monkeypatch.setattr(CudaGraph, "body", body)
    graphed, request = graph_model(qwen3()), Request(PROMPT, 60)
    a, b = (
        generate(t, methods.load(method, t, artefacts.get(method, {})), request)
        for t in (target, graphed)
    )
    assert (a.output_ids, a.accept_lengths) == (b.output_ids, b.accept_lengths)
    drafter, seen = methods.load(method, graphed, artefacts.get(method, {})), []
    learn = drafter.observe
    monkeypatch.setattr(
        drafter,
        "observe",
        lambda out: (seen.append((out.features, copy.deepcopy(out.features))), learn(out)),
    )
    generate(graphed, drafter, request)
    assert all(kept is None or torch.equal(kept, then) for kept, then in seen)


@pytest.mark.parametrize("top", ({"sampling_top_k": 5}, {"sampling_top_p": 0.7}))
def test_what_the_forward_cannot_pick_is_picked_behind_it(top, target, graphed, load):
    request = Request(PROMPT, 40, 0.9, **top)
    for method in ("vanilla", "recycling"):
        assert (
            generate(graphed, load(method), request).output_ids
            == generate(target, load(method), request).output_ids
        )


@pytest.mark.parametrize("make", (qwen3, llama))
@pytest.mark.parametrize("rows", (1, 3, 8, 9, 64, 65, 128))
def test_a_buckets_unused_rows_change_nothing(make, rows):
    ids = [(5 * i) % VOCAB for i in range(150)]
    plain, padded = Model(make(), engine="eager"), graph_model(make())
    for target in (plain, padded):
        target.reserve(400)
        target.forward([Segment.causal(0, 0, ids)], Wanted(last_only=True))
    generator = np.random.default_rng(rows)
    mask = np.tri(rows, dtype=bool) & (generator.random((rows, rows)) < 0.6) | np.eye(
        rows, dtype=bool
    )
    segment = Segment(
        0, 150, ids[:rows], [150 + i % 7 for i in range(rows)], torch.from_numpy(mask)
    )
    wanted = Wanted(target_topk=3, is_step=True)
    a, b = (t.forward([segment], wanted) for t in (plain, padded))
    torch.testing.assert_close(b.logits, a.logits, atol=1e-5, rtol=1e-4)
    assert torch.equal(b.picked.argmax, a.logits.argmax(-1))
    assert torch.equal(b.picked.target_topk, a.logits.topk(3).indices)
    for t in (plain, padded):
        t.keep(0, 150, [0, *range(2, rows, 2)])
    padded.backend.flush()
    torch.testing.assert_close(
        padded.cache.data[..., : 150 + (rows + 1) // 2, :, :],
        plain.cache.data[..., : 150 + (rows + 1) // 2, :, :],
        atol=1e-5,
        rtol=1e-4,
    )


def test_ancestors_survive_their_packing():
    mask = np.tri(70, dtype=bool) & (np.random.default_rng(0).random((70, 70)) < 0.5)
    words = torch.from_numpy(ancestor_words(mask, 70).copy()).view(70, 2, 1)
    unpacked = ((words >> torch.arange(64)) & 1).bool().reshape(70, 128)
    assert np.array_equal(unpacked[:, :70].numpy(), mask) and not unpacked[:, 70:].any()


def test_a_long_accepted_path_is_moved_at_once(graphed, load):
    """Paths beyond what a graph moves: a right chain beside a wrong sibling, 40 deep."""
    from tests.test_conformance import Scripted

    request = Request(PROMPT, 90)
    text = generate(graphed, load("vanilla"), request).output_ids

    def beside(context):
        chain = text[context.emitted : context.emitted + 40]
        if not chain:
            return Draft.only_root(context.root)
        wrong = (chain[0] + 1) % VOCAB
        tokens = [context.root, wrong, *chain]
        return Draft(tokens, [-1, 0, 0, *range(2, len(tokens) - 1)], len(tokens), "beside")

    result = generate(graphed, Scripted(beside, 64), request)
    assert result.output_ids == text and max(result.accept_lengths) > cuda_graph.MOVES


def test_prepare_records_every_bucket_once():
    target = graph_model(qwen3(layers=2))
    target.reserve(300)
    assert target.prepare(20, Wanted(target_topk=2))
    made = [key.rows for key in target.backend.recorded]
    assert made == [24, 16, 8, 4, 2, 1]
    generate(
        target,
        methods.load("recycling", target, {"recycling_topk": 2}),
        Request(PROMPT, 20),
        max_nodes=20,
    )
    assert [key.rows for key in target.backend.recorded] == made


class Spoiled(CudaGraph):
    """Steps whose graph is given something else than it was told."""

    what = ""

    def body(self, key):
        given = self._inputs.device
        if self.what == "mask":  # every row attends the root alone
            given["ancestors"][:] = 1
        elif self.what == "positions":
            given["positions"] += 7
        elif self.what == "start":
            given["starts"] -= 1
        elif self.what == "slots":
            given["slots"][:2] = given["slots"][:2].flip(0)
        elif self.what == "rows":
            given["first_rows"][1] += 1
        elif self.what == "keys":
            given["keys"] += 1
        output = super().body(key)
        if self.what == "top-k":
            output.picked.packed[:, 3] = output.picked.packed[:, 2]
        return output

    def move_rows(self):
        if self.what == "moves":  # accepted rows are moved to the wrong place
            self._inputs.device["move_to"] += 1
        super().move_rows()


@pytest.mark.parametrize(
    ("what", "said"),
    (
        ("moves", "accepted rows are moved elsewhere"),
        ("mask", "differ by"),
        ("positions", "differ by"),
        ("start", "differ by"),
        ("slots", "differ by"),
        ("rows", "differ by"),
        ("keys", "drawn tokens are not those of their noise"),
        ("top-k", "likeliest tokens are not"),
        ("", ""),
    ),
)
def test_a_new_graph_is_refused_whatever_of_it_is_wrong(what, said, monkeypatch):
    monkeypatch.setattr(Spoiled, "what", what)
    monkeypatch.setattr(cuda_graph, "BACKEND", Spoiled)
    spoiled = graph_model(qwen3(layers=2))
    spoiled.reserve(400, slots=2)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        spoiled.prepare(20, Wanted(target_topk=3, feature_layers=(1,)), draws=True)
    shown = " ".join(str(warning.message) for warning in told)
    assert said in shown and (spoiled.engine == "eager") == bool(what)


def test_a_new_graphs_comparison_leaves_cache_and_output_as_they_were(target, load):
    """Also where a graph is made in the middle of a text."""
    graphed = graph_model(qwen3())
    for temperature in (0.0, 0.8):
        request = Request(PROMPT, 40, temperature)
        for method in ("recycling", "sam", "lookahead"):
            made = generate(graphed, load(method), request)
            assert made.output_ids == generate(target, load("vanilla"), request).output_ids
    assert graphed.engine == "cuda_graph"


def test_after_a_fallback_every_bucket_is_recorded_ahead(monkeypatch):
    """The largest ones too, which the engine that failed had recorded already."""

    class Failing(CudaGraph):
        fallback = "cuda_graph"

        def body(self, key):
            if key.rows == 8:
                raise RuntimeError("no kernel")
            return super().body(key)

    monkeypatch.setattr(cuda_graph_fused, "BACKEND", Failing)
    target = Model(qwen3(layers=2), engine="cuda_graph_fused")
    target.reserve(300)
    with pytest.warns(UserWarning, match="going on with 'cuda_graph'"):
        assert target.prepare(20, Wanted())
    assert target.engine == "cuda_graph"
    assert sorted(key.rows for key in target.backend.recorded) == [1, 2, 4, 8, 16, 24]


@pytest.mark.parametrize("broken", ("raises", "differs", "stores"))
def test_a_graph_that_does_not_reproduce_the_model_is_given_up(broken, monkeypatch, load, target):
    honest = CudaGraph.body

    def body(self, key):
        if broken == "raises":
            raise RuntimeError("no kernel for this chip\nand a long trace")
        output = honest(self, key)
        if broken == "stores":
            self.cache.data[:, :, 0, len(PROMPT)] += 1
            return output
        return dataclasses.replace(output, logits=output.logits + 1)

    monkeypatch.setattr(CudaGraph, "body", body)
    graphed, request = graph_model(qwen3()), Request(PROMPT, 30)
    said = "engine 'cuda_graph' does not work here .*going on with 'eager'"
    with pytest.warns(UserWarning, match=said):
        result = generate(graphed, load("recycling"), request)
    assert graphed.engine == "eager"
    assert result.output_ids == generate(target, load("vanilla"), request).output_ids


def test_fused_layers_are_compiled_once_for_all_and_change_no_token(load, target, monkeypatch):
    """Inductor on a CPU: the operator stays whole; no layer, and no launch, is compiled anew."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    launches = {1: Launch(stages=3), 2: Launch(programs=1), 8: DEFAULT, 384: Launch(warps=8)}
    table = AttentionTable("measured", launches)
    monkeypatch.setattr(attention_table, "load", lambda kind: table)
    fused = Model(qwen3(), engine="cuda_graph_fused")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for method in ("vanilla", "recycling"):
            request = Request(PROMPT, 40, 0.5)
            assert (
                generate(fused, load(method), request).output_ids
                == generate(target, load(method), request).output_ids
            )
    assert fused.engine == "cuda_graph_fused"
    # one row, the first bucket, any bucket: of a layer, the angles and the last norm
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 9
    assert not torch._dynamo.utils.counters["graph_break"]


def test_merged_weights_are_moved_and_the_model_stays_as_it_was():
    network, untouched = qwen3(layers=3), qwen3(layers=3)
    assert move_together(network) == 6 and move_together(network) == 6
    storages = set()
    for weight in network.parameters():
        storages.add((weight.untyped_storage().data_ptr(), weight.untyped_storage().nbytes()))
    assert sum(size for _, size in storages) == sum(
        weight.numel() * weight.element_size() for weight in network.parameters()
    )
    for name, weight in untouched.state_dict().items():
        assert torch.equal(weight, network.state_dict()[name]), name
    ids = torch.arange(7)[None]
    assert torch.equal(network(ids).logits, untouched(ids).logits)


@pytest.mark.parametrize("biased", (False, True))
def test_linears_of_one_input_become_one_product(biased):
    """The traced graph of a decoder layer, before and after, on the same rows."""
    network = llama()
    layer = network.model.layers[1]
    if biased:  # such layers are left as they are
        layer.self_attn.k_proj.bias = torch.nn.Parameter(torch.ones(8))
    move_together(network)
    counted = []

    def backend(graph, inputs):
        before = graph(*inputs)
        products = [node for node in graph.graph.nodes if node.target is LINEAR]
        after = merged(graph)(*inputs)
        merged_products = [node for node in graph.graph.nodes if node.target is LINEAR]
        counted.append((len(products), len(merged_products)))
        for a, b in zip(before, after, strict=True):
            assert torch.allclose(a, b, atol=1e-6)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(layer.forward, backend=backend)
    angles = network.model.rotary_emb(torch.zeros(1, 5, 32), torch.arange(5)[None])
    with torch.inference_mode():
        compiled(torch.randn(1, 5, 32), position_embeddings=angles)
    assert counted == [(7, 6 if biased else 4)]


def test_the_fused_draft_is_the_draft_by_levels(artefacts, target):
    """Inductor on a CPU over EAGLE-3's head, its linears merged."""
    torch._dynamo.reset()
    drafter = methods.load("eagle3", target, artefacts["eagle3"])
    drafters = [copy.deepcopy(drafter.head) for _ in range(2)]
    torch.manual_seed(0)
    features = torch.randn(20, 3 * target.config.hidden_size)
    tokens = torch.randint(VOCAB, (20,)).tolist()
    shape = TreeShape(k=3, depth=3, nodes=12)
    plain, fused = (DraftState(head, drafter.embedding, 128) for head in drafters)
    graph = DraftGraph(fused, shape, fused=True)
    for begin, end in ((0, 4), (4, 5), (5, 13), (13, 20)):
        plain.catch_up(features[begin:end], tokens[begin:end])
        expected = plain.grow(shape)
        found = graph.step(features[begin:end], tokens[begin:end])
        assert found.paths() == expected.paths()
        assert found.chances == pytest.approx(expected.chances, rel=1e-3)


def test_a_fused_draft_that_fails_is_drafted_operation_by_operation(artefacts, target, monkeypatch):
    def broken(part):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("model.eagle3.graph.compiled", broken)
    config = eagle3.Config(**artefacts["eagle3"])
    head = methods.load("eagle3", target, artefacts["eagle3"]).head
    embedding = target.network.get_input_embeddings().weight
    drafter = eagle3.Eagle3(config, head, embedding, (eagle3.FUSED, eagle3.PLAIN))
    with pytest.warns(
        UserWarning, match="recorded fused, cannot be recorded here.*operation by operation"
    ):
        drafter.reserve(200)
    request = Request(PROMPT, 30)
    vanilla = generate(target, methods.load("vanilla", target), request)
    assert generate(target, drafter, request).output_ids == vanilla.output_ids


@pytest.mark.parametrize(
    ("options", "branches", "temperature"),
    (
        ({}, False, 0.0),
        ({}, False, 0.8),
        ({"sps_confidence": 0.3}, True, 0.0),
        ({"sps_confidence": 0.3}, True, 0.8),
        ({"sps_confidence": 0.3}, False, 0.8),
        ({"sps_schedule": "heuristic"}, True, 0.8),
    ),
)
def test_drafts_of_a_chain_graph_are_those_step_by_step(
    options, temperature, branches, target, graphed, artefacts, monkeypatch
):
    """As long and as often accepted; and the chain was used."""
    monkeypatch.setattr(sps, "can_branch", lambda device: branches)
    used = []
    whole = ChainGraph.step

    def counted(self, segment, *more):
        used.append(len(segment))
        return whole(self, segment, *more)

    monkeypatch.setattr(ChainGraph, "step", counted)
    made = []
    for model in (target, graphed):
        drafter = methods.load("sps", model, {**artefacts["sps"], **options})
        for sample in range(2):
            request = Request(PROMPT, 40, temperature, sample=sample, question_id="q")
            made.append(generate(model, drafter, request))
    for by_step, by_chain in zip(made[:2], made[2:], strict=True):
        assert by_step.output_ids == by_chain.output_ids
        assert by_step.draft_lengths == by_chain.draft_lengths
        assert by_step.accept_lengths == by_chain.accept_lengths
    assert len(used) > 20 and max(used) > 1


@pytest.mark.parametrize("options", ({"sps_confidence": 0.5}, {"sps_schedule": "heuristic"}))
def test_a_branching_chain_drafts_no_token_in_vain(options, graphed, artefacts, monkeypatch):
    """As many forwards of the draft model as tokens drafted, whatever ended the drafts."""
    drafter = methods.load("sps", graphed, {**artefacts["sps"], **options})
    taken = []
    real = ChainGraph._take
    monkeypatch.setattr(
        ChainGraph, "_take", lambda self, *args: taken.append(1) or real(self, *args)
    )
    drafter.reserve(len(PROMPT) + 60)
    taken.clear()  # those of the recording
    result = generate(graphed, drafter, Request(PROMPT, 60))
    assert sum(result.draft_lengths) == len(taken)
    assert len(set(result.draft_lengths)) > 1


@pytest.mark.parametrize(
    ("tokens", "probabilities", "is_right"),
    (
        ([3, 1, 2], [0.9, 0.5, 0.1], True),
        ([3, 1, 2], [0.9, 0.5, 0.9], True),
        ([3, 1], [0.9, 0.4], True),
        ([3, 1], [0.9, 0.9], False),  # ends too early
        ([3, 1, 2], [0.9, 0.4, 0.9], False),  # too late
        ([3, 2], [0.9, 0.4], False),  # does not follow
        ([], [], False),
    ),
)
def test_a_chain_that_ends_elsewhere_is_refused(tokens, probabilities, is_right, graphed):
    graphed.reserve(200)
    chain = ChainGraph(graphed, 3, confidence=0.5, branches=True)
    logits = torch.nn.functional.one_hot(torch.tensor([3, 1, 2])).float()
    assert chain._is_chain(Chain(tokens, probabilities), logits[: len(tokens)]) is is_right


def test_what_a_graph_cannot_branch_for_is_recorded_without(graphed, artefacts, monkeypatch):
    def refused(flag, part):
        raise RuntimeError("no IF nodes in this driver")

    monkeypatch.setattr("model.engine.chain.run_if", refused)
    with pytest.warns(UserWarning, match="no IF nodes in this driver.*going on without branches"):
        drafter = methods.load("sps", graphed, {**artefacts["sps"], "sps_confidence": 0.5})
        drafter.reserve(200)
    assert drafter._forwards.chain.length == 4


def test_a_part_of_a_graph_is_captured_under_its_flag(monkeypatch):
    """What PyTorch is told while it captures; a warm-up runs the part."""
    told = []

    class Graph:
        def begin_capture_to_if_node(self, flag):
            told.append("if")

        def end_capture_to_conditional_node(self):
            told.append("end")
            if len(told) > 4:
                raise RuntimeError("ended with an error of its own")

    flag, is_capturing = SimpleNamespace(is_cuda=True, device="cuda"), []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: bool(is_capturing))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "captured")
    monkeypatch.setattr(torch.cuda, "set_stream", told.append)
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "get_currently_capturing_graph", staticmethod(Graph), raising=False
    )
    run_if(flag, lambda: told.append("part"))
    is_capturing.append(True)
    run_if(flag, lambda: told.append("part"))
    assert told == ["part", "if", "part", "end"]
    with pytest.raises(ZeroDivisionError):
        run_if(flag, lambda: 1 / 0)
    assert told[4:] == ["if", "end", "captured"]


def test_a_chain_that_gives_other_tokens_is_given_up(graphed, artefacts, monkeypatch, load):
    monkeypatch.setattr(ChainGraph, "_pick", lambda self, logits, number, draws: logits.argmin(-1))
    with pytest.warns(UserWarning, match="chain gives other tokens .* going on step by step"):
        drafter = methods.load("sps", graphed, artefacts["sps"])
        text = generate(graphed, drafter, Request(PROMPT, 20)).output_ids
    assert text == generate(graphed, load("vanilla"), Request(PROMPT, 20)).output_ids


def test_launches_do_not_grow_back():
    """Counted in the code that Inductor writes for a Hopper GPU; no GPU is needed."""
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "tests/programs/launches.py"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    counts = dict(line.rsplit(" ", 1) for line in run.stdout.splitlines())
    for kind in ("qwen3 layer, any rows", "llama layer"):
        assert int(counts[kind]) <= 11, counts
    assert int(counts["eagle3 level"]) <= 22 and int(counts["eagle3 catching up"]) <= 22, counts
    assert int(counts["step, beside layers"]) <= 11, counts
    assert int(counts["sps token, beside layers"]) <= 11, counts


def test_where_combined_kernels_do_not_compile_they_are_done_without(monkeypatch):
    from torch._inductor import compile_fx

    tried = []

    def compiled(graph, inputs, config_patches):
        tried.append(config_patches["combo_kernels"])
        if tried[-1]:
            raise RuntimeError("ptxas is not amused")
        return graph

    monkeypatch.setattr(compile_fx, "compile_fx", compiled)
    monkeypatch.setattr(merged_linears, "is_on_gpu", lambda inputs: True)
    torch._dynamo.reset()
    layer = torch.nn.Linear(3, 3)
    with torch.inference_mode():
        rows = torch.ones(2, 3)
        assert torch.equal(torch.compile(layer, backend=compile_merged)(rows), layer(rows))
    assert tried == [True, False]


@pytest.mark.parametrize("rows", (1, 2, 3, 7, 16))
@pytest.mark.parametrize("k", (1, 4))
def test_the_whole_draft_at_once_is_the_draft_by_levels(rows, k, artefacts, target):
    drafter = methods.load("eagle3", target, artefacts["eagle3"])
    for part in (drafter.head.midlayer.self_attn.q_proj, drafter.head.midlayer.self_attn.k_proj):
        part.weight.data *= 20  # attention sharp enough for positions to matter
    torch.manual_seed(rows)
    features = torch.randn(50 + rows, 3 * target.config.hidden_size)
    tokens = torch.randint(VOCAB, (50 + rows,)).tolist()
    states = [DraftState(drafter.head, drafter.embedding, 256) for _ in range(2)]
    for state in states:
        state.catch_up(features[:50], tokens[:50])
    whole = DraftGraph(states[1], TreeShape(k, 3, 11))
    assert whole.takes(rows)
    states[0].catch_up(features[50:], tokens[50:])
    with torch.inference_mode():
        found = whole.step(features[50:], tokens[50:])
    assert found == states[0].grow(TreeShape(k, 3, 11))
    assert states[0].stable == states[1].stable
    torch.testing.assert_close(
        states[0].cache[:, : states[0].stable], states[1].cache[:, : states[0].stable]
    )


def test_preparing_one_bucket_that_is_given_up_prepares_nothing(monkeypatch):
    """Vanilla has one bucket: the engine may fall back in the only round."""
    target = graph_model(qwen3(layers=2))
    target.reserve(300)
    monkeypatch.setattr(CudaGraph, "body", lambda self, key: 1 / 0)
    with pytest.warns(UserWarning, match="going on with 'eager'"):
        assert not target.prepare(1, Wanted())
    assert target.engine == "eager"


def test_a_draft_that_cannot_be_recorded_is_drafted_level_by_level(monkeypatch, artefacts, target):
    request, model = Request(PROMPT, 40), graph_model(qwen3())
    plain = generate(target, methods.load("eagle3", target, artefacts["eagle3"]), request)
    monkeypatch.setattr(DraftGraph, "body", lambda self, rows: 1 / 0)
    drafter = methods.load("eagle3", model, artefacts["eagle3"])
    with pytest.warns(UserWarning, match="cannot be recorded here .ZeroDivisionError"):
        assert generate(model, drafter, request).accept_lengths == plain.accept_lengths

    def a_chain_of_threes(self, rows):
        nodes = artefacts["eagle3"]["eagle_nodes"] - 1
        numbers = torch.arange(1, nodes + 1)
        return torch.stack([numbers, torch.full((nodes,), 3), torch.arange(nodes)])

    monkeypatch.setattr(DraftGraph, "body", a_chain_of_threes)
    drafter = methods.load("eagle3", model, artefacts["eagle3"])
    with pytest.warns(UserWarning, match="level by level"):
        assert generate(model, drafter, request).accept_lengths == plain.accept_lengths


def test_a_larger_cache_lets_go_of_the_old_one():
    import gc
    import weakref

    target = graph_model(qwen3(layers=2))
    target.reserve(300)
    old = weakref.ref(target.cache.data.untyped_storage())
    seen = []
    monkeypatched = KVCache.__init__

    def watching(self, *args, **kwargs):
        gc.collect()
        seen.append(old() is None)
        monkeypatched(self, *args, **kwargs)

    KVCache.__init__ = watching
    try:
        target.reserve(9000)
    finally:
        KVCache.__init__ = monkeypatched
    assert seen == [True]


def test_the_kernels_compile_for_a_hopper_gpu():
    """Triton's compiler needs no GPU; its interpreter does not check types."""
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "tests/programs/kernels_compile.py"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": "."},
        check=False,
    )
    assert "kernels compile" in run.stdout, run.stderr[-3000:]


def test_attention_with_lengths_on_the_device_against_plain_softmax():
    torch.manual_seed(0)
    q, k, v, cache = (
        torch.randn(3, 4, 16),
        torch.randn(5, 2, 16),
        torch.randn(5, 2, 16),
        torch.randn(2, 40, 2, 16),
    )
    mask = torch.rand(3, 5) < 0.5
    before = cache.clone()
    found = tree_attention(q, k, v, cache, torch.tensor([17]), mask, 0.3, False)
    assert torch.equal(cache, before)
    for row in range(3):
        for head in range(4):
            keys = torch.cat([cache[0, :17, head // 2], k[mask[row], head // 2]])
            values = torch.cat([cache[1, :17, head // 2], v[mask[row], head // 2]])
            expected = (q[row, head] @ keys.T * 0.3).softmax(-1) @ values
            torch.testing.assert_close(found[row, head], expected, atol=1e-5, rtol=1e-4)
    tree_attention(q, k[:3], v[:3], cache, torch.tensor([17]), mask[:, :3], 0.3, True)
    assert torch.equal(cache[:, 17:20], torch.stack([k[:3], v[:3]])) and torch.equal(
        cache[:, 20:], before[:, 20:]
    )


def test_drawing_on_the_device_is_drawing_on_the_host():
    noise, logits = PositionNoise(7 << 60), torch.randn(6, 500) * 2
    keys = torch.tensor(noise.keys(list(range(6))))
    found = draw(logits, keys, torch.tensor([0.6], dtype=torch.float64))
    assert torch.equal(found, target_tokens(logits, list(range(6)), 0, Request([1], 1, 0.6), noise))


@pytest.mark.parametrize(
    ("program", "said"), (("kernels_agree", "kernels agree"), ("whole_path", "texts agree"))
)
def test_tritons_interpreter_agrees_with_the_reference(program, said):
    """The GPU's kernels, executed on the CPU by Triton's own interpreter (a process of its own: it
    is chosen on import).
    """
    pytest.importorskip("triton")
    code = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, f"tests/programs/{program}.py"],
        capture_output=True,
        text=True,
        cwd=code,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(code)},
        check=False,
    )
    assert said in run.stdout, run.stderr[-2000:]


def gpu_bench(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "bench/gpu.py", *flags]
    code = Path(__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, cwd=code, check=False)


def test_the_gpu_bench_runs_whole_on_a_cpu(tmp_path):
    flags = f"--out {tmp_path / 'gpu'} --repeats 2 --tokens 24 --second tiny-draft".split()
    run = gpu_bench(*flags)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["equal"] == {"eager": True, "cuda_graph": True, "lossless": True}
    costs = next(v for k, v in found.items() if k.startswith("Step cost"))
    # a method that emits another text is named so
    assert [row[0] for row in costs["rows"]] == methods.names()
    assert (
        found["honest, mini"]
        and found["honest, random weights, tiny"]
        and not [key for key in found if key.startswith("failed")]
    )
    together = next(v for k, v in found.items() if k.startswith("Texts together"))
    assert [row[0] for row in together["rows"]] == ["1", "4", "8", "16"]
    assert (tmp_path / "gpu.png").stat().st_size > 10_000
    assert "n = 64" in (tmp_path / "gpu.md").read_text()


def test_the_gpu_bench_runs_the_parts_that_are_named(tmp_path):
    out = str(tmp_path / "gpu")
    run = gpu_bench("--out", out, "--repeats", "2", "--parts", "roofline,kernels")
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    [roofline] = [table for name, table in found.items() if name.startswith("Roofline")]
    assert [row[1] for row in roofline["rows"]] == ["64", "256"]  # context lengths
    assert all(row[3].endswith("%") for row in roofline["rows"])
    assert "kernels" in found and "equal" not in found
    assert not [key for key in found if key.startswith("failed")]


def test_parts_of_the_gpu_bench_are_named_with_commas_or_spaces(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    import gpu

    assert gpu.parts_of(["roofline,verify", "costs"]) == ["roofline", "verify", "costs"]
    with pytest.raises(UserError, match=r"no part 'rooflin'; there are: .*roofline"):
        gpu.parts_of(["verify,rooflin"])
    with pytest.raises(UserError, match="--parts: name one of"):
        gpu.parts_of([","])


def test_the_gpu_bench_takes_a_gpu_without_a_number_for_the_first(monkeypatch):
    """PyTorch itself refuses to make such a device the current one."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    taken = []
    monkeypatch.setattr(torch._C, "_cuda_setDevice", taken.append, raising=False)
    for flags in ([], ["--device", "cuda"], ["--device", "cuda:2"]):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *flags])
        torch.cuda.set_device(gpu.parse().device)
    assert taken == [0, 0, 2]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cuda:3"])
    with pytest.raises(UserError, match="PyTorch sees 3 GPU"):
        gpu.parse()


@pytest.mark.parametrize(
    ("dtype", "roundings", "is_good"),
    ((torch.float32, 0.0, False), (torch.bfloat16, 0.5, True), (torch.bfloat16, 9.0, False)),
)
def test_the_gpu_bench_fails_texts_that_part_at_no_tie(dtype, roundings, is_good, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    import gpu

    margin = verify.Margin(scores=roundings, rounding=1.0)
    checked = verify.MethodCheck("pld", 0.0, [verify.TextCheck(9, 4, margin, 1.5)])
    said = []
    report = SimpleNamespace(data={}, table=said.append, say=said.append)
    bench = SimpleNamespace(settings=SimpleNamespace(dtype=dtype), report=report)
    expected = contextlib.nullcontext() if is_good else pytest.raises(AssertionError)
    with expected:
        gpu.Bench._judge(bench, "mini", [checked])
    assert report.data["honest, mini"] is is_good and said


def test_buckets_cover_every_published_draft(target, load):
    assert max(load(m).needs.max_nodes for m in METHODS) <= MOST_NODES


def test_the_reference_is_used_where_no_kernel_is():
    q, kv, cache = torch.randn(1, 2, 12), torch.randn(1, 2, 12), torch.randn(2, 8, 2, 12)
    mask, start = torch.ones(1, 1, dtype=torch.bool), torch.tensor([3])
    assert torch.equal(
        tree_attention(q, kv, kv, cache, start, mask, 0.2, False),
        reference(q, kv, kv, cache, start, mask, 0.2),
    )


# --- a capture that fails -------------------------------------------------------------------------
class Streams:
    """Stands for torch.cuda where a capture fails, and for a GPU that answers no longer."""

    def __init__(self, is_lost: bool) -> None:
        self.is_lost, self.stream = is_lost, "capturing"
        self.left: list[tuple] = []
        self.order: list[str] = []

    def install(self, monkeypatch) -> None:
        class Stream:
            def wait_stream(self, other):
                pass

        monkeypatch.setattr(capturing, "capture_stream", lambda device: Stream())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "set_stream", self.set_stream)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a new pool")
        forget = "_cuda_clearCublasWorkspaces"
        monkeypatch.setattr(torch._C, forget, lambda: self.order.append("forget"), raising=False)
        ended, released = "_cuda_endAllocateToPool", "_cuda_releasePool"
        monkeypatch.setattr(torch.cuda.memory, ended, lambda *at: self.left.append((ended, *at)))
        monkeypatch.setattr(
            torch.cuda.memory, released, lambda *at: self.left.append((released, *at))
        )

    @contextlib.contextmanager
    def graph(self, *_, **__):
        try:
            yield
        finally:
            raise RuntimeError("the capture was ended")

    def set_stream(self, stream):
        self.stream = "before"

    def synchronize(self, device):
        if self.is_lost:
            raise RuntimeError("an illegal memory access was encountered")


@pytest.mark.parametrize("is_lost", (False, True))
def test_a_capture_that_fails_says_why_and_comes_back(is_lost, monkeypatch):
    streams, calls = Streams(is_lost), []
    streams.install(monkeypatch)

    def body():
        calls.append(1)
        streams.order.append("body")
        if len(calls) > capturing.WARM_UP_RUNS:
            raise ValueError("no kernel\nand a long trace")

    expected = UserError if is_lost else ValueError
    with pytest.raises(expected, match="no kernel") as raised:
        capturing.capture(body, torch.device("cpu"))
    assert streams.stream == "before" and gc.isenabled()
    # a workspace of the warm-up is not the graph's, nor is the graph's anybody else's
    assert streams.order == ["body"] * capturing.WARM_UP_RUNS + ["forget", "body", "forget"]
    if not is_lost:  # the allocator is as before: the next capture works
        calls = ("_cuda_endAllocateToPool", "_cuda_releasePool")
        assert streams.left == [(call, 0, "a new pool") for call in calls]
    if is_lost:
        assert "cpu answers no longer (ValueError: no kernel)" in str(raised.value)


def test_graphs_share_memory_until_one_fails(monkeypatch):
    pools = []

    def capture(body, device, pool):
        pools.append(pool)
        if body is None:
            raise RuntimeError("no graph")
        return SimpleNamespace(pool=lambda: pool or f"pool {len(pools)}"), None

    monkeypatch.setattr(capturing, "capture", capture)
    captures = capturing.Captures(torch.device("cpu"))
    for body in (print, print):
        captures.capture(body)
    with pytest.raises(RuntimeError, match="no graph"):
        captures.capture(None)
    captures.capture(print)
    assert pools == [None, "pool 1", "pool 1", None]


def test_what_was_raised_first_is_told():
    """Ending a broken part of a broken capture raises twice more."""
    with pytest.raises(RuntimeError) as raised:
        try:
            try:
                raise torch.OutOfMemoryError("no memory")
            finally:
                raise ValueError("the part was ended")
        finally:
            raise RuntimeError("the capture was ended")
    assert isinstance(capturing.first_cause(raised.value), torch.OutOfMemoryError)


@pytest.mark.parametrize(
    ("version", "can"), (("2.11.0+cu130", False), ("2.12.1", False), ("2.13.0+cu130", True))
)
def test_graphs_branch_from_a_version_on(version, can, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert can_branch(torch.device("cuda")) is can and can_branch(torch.device("cpu"))


def test_a_lost_gpu_ends_the_run_and_no_other_engine_is_tried(monkeypatch, load):
    def lost(self, key):
        raise UserError("cuda:0 answers no longer")

    monkeypatch.setattr(CudaGraph, "body", lost)
    with pytest.raises(UserError, match="answers no longer"):
        generate(graph_model(qwen3()), load("pld"), Request(PROMPT, 5))


def test_two_moves_without_a_step_between_are_both_made():
    graphed = graph_model(qwen3(layers=2))
    graphed.reserve(100)
    rows = graphed.cache.data[:, :, 0]
    rows[:, :, :, 0, 0] = torch.arange(rows.shape[2], dtype=rows.dtype)
    graphed.keep(0, 10, [0, 2, 5])
    graphed.keep(0, 20, [0, 3])
    graphed.backend.flush()
    kept = rows[0, 0, :, 0, 0].long().tolist()
    assert kept[10:13] == [10, 12, 15] and kept[20:22] == [20, 23]


# --- several sequences ----------------------------------------------------------------------------
@pytest.fixture
def together_in_graphs(monkeypatch) -> list[int]:
    """How many sequences each launched step had."""
    seen, real = [], CudaGraph.run

    def counted(self, segments, wanted):
        seen.append(len(segments))
        return real(self, segments, wanted)

    monkeypatch.setattr(CudaGraph, "run", counted)
    return seen


@pytest.mark.parametrize(
    ("method", "temperature"),
    (
        ("vanilla", 0.6),
        ("recycling", 0.0),  # trees, the likeliest tokens
        ("recycling", 0.6),
        ("lookahead", 0.6),  # extra nodes
        ("eagle3", 0.6),  # features
        ("sps", 0.6),  # a second model in graphs
        ("stand", 0.6),
    ),
)
def test_texts_made_together_in_graphs_are_vanillas_alone(
    method, temperature, target, artefacts, together_in_graphs
):
    graphed = graph_model(qwen3())
    drafter = methods.load(method, graphed, artefacts.get(method, {}))
    requests = mixed(5, temperature, seed=3)
    vanilla = methods.load("vanilla", target)
    texts = [generate(target, vanilla, request).output_ids for request in requests]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="engine 'cuda_graph' does not work")
        made = generate_together(graphed, drafter, requests)
    assert [text.output_ids for text in made] == texts
    assert 4 in together_in_graphs  # the fifth text ends with its first token


def test_what_several_sequences_need_is_recorded_ahead():
    target = graph_model(qwen3(layers=2))
    target.reserve(300, slots=5)
    assert target.prepare(20, Wanted(), draws=True)
    made = [key.rows for key in target.backend.recorded]
    assert made == [size for size in reversed(BUCKETS) if size <= 128]
    requests = [dataclasses.replace(r, temperature=0.6) for r in mixed(5, 0.6, seed=1)]
    generate_together(target, methods.load("pld", target), requests, max_nodes=20)
    assert [key.rows for key in target.backend.recorded] == made


def test_texts_together_draft_what_the_largest_graph_holds(monkeypatch, load, together_in_graphs):
    """A step of more rows would run eagerly, launched from Python operation by operation."""
    monkeypatch.setattr(CudaGraph, "most_rows", 16)
    target = graph_model(qwen3(layers=2))
    requests = [Request(PROMPT, 20, sample=sample) for sample in range(4)]
    steps = []
    made = generate_together(
        target, load("recycling"), requests, on_step=lambda s: steps.append(s.draft_lengths[-1])
    )
    assert max(steps) == 3
    assert len(together_in_graphs) == max(len(text.accept_lengths) for text in made)


def test_rows_of_several_slots_are_moved_together():
    graphed = graph_model(qwen3(layers=2))
    graphed.reserve(100, slots=3)
    rows = graphed.cache.data
    numbers = torch.arange(3 * rows.shape[3], dtype=rows.dtype).view(3, -1)
    rows[..., 0, 0] = numbers
    ids = [Segment.causal(slot, 40, [1, 2]) for slot in range(3)]
    for slot, path in enumerate(([0, 2, 5], [0, 1], [1, 3])):
        graphed.keep(slot, 10, path)
    graphed.forward(ids, Wanted(is_step=True))
    kept = rows[0, 0, :, 10:13, 0, 0]
    expected = numbers[:, 10:13].clone()
    expected[0] = numbers[0, [10, 12, 15]]
    expected[2, :2] = numbers[2, [11, 13]]
    assert graphed.engine == "cuda_graph" and torch.equal(kept, expected)


@pytest.mark.parametrize("mode", ("coupled", "rejection"))
def test_whatever_a_draft_model_needs_is_recorded_ahead(mode, monkeypatch, tmp_path):
    """Rejection sampling: some steps the forward draws for, after others it must not."""
    path = tmp_path / "r.jsonl"
    words = "--method sps --model-path mini --engine cuda_graph --temperature 0.8 --warmup 0"
    flags = "--question-end 1 --max-new-tokens 12 --max-nodes 4 --rounds 1 --threads 1"
    made, running = [], []
    real = runner.generate
    monkeypatch.setattr(runner, "generate", lambda *args: running.append(1) or real(*args))
    captured = CudaGraph._differs
    monkeypatch.setattr(
        CudaGraph,
        "_differs",
        lambda self, *args: made.append(len(running)) or captured(self, *args),
    )
    inference.main_for(
        None, [*words.split(), *flags.split(), "--sps-mode", mode, "--answer-file", str(path)]
    )
    assert running and made and not any(made)
