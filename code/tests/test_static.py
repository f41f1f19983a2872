"""The forward with its lengths on the device, as a GPU captures it: the same texts, trees and noise as the reference."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from model import draft
from model.draft import Request
from model.drafters.eagle3 import Eagle3
from model.eagle3.static import StaticDraft
from model.eagle3.tree import DraftState
from model.engine import static
from model.engine.attention import Segment
from model.engine.cache import KVCache
from model.engine.decode import generate
from model.engine.sampling import PositionNoise, draw, target_tokens
from model.engine.static import BUCKETS, Choice, StaticForward, ancestor_words
from model.engine.target import Target
from model.engine.tree_attention import reference, tree_attention
from tests.conftest import METHODS, PROMPT, VOCAB, llama, qwen3


def static_target(model) -> Target:
    """A target that runs the static forward, which a CPU would not choose by itself."""
    target = Target(model, engine="graph")
    target.graphs = None
    return target


@pytest.fixture(scope="module")
def still() -> Target:
    return static_target(qwen3())


@pytest.mark.parametrize("temperature", (0.0, 0.8))
@pytest.mark.parametrize("method", METHODS)
def test_every_method_emits_the_references_tokens(method, temperature, target, still, artefacts):
    drafters = [draft.load(method, t, artefacts.get(method, {})) for t in (target, still)]
    inner = getattr(drafters[1], "inner", drafters[1])
    if isinstance(inner, Eagle3):
        inner._static = True
    for sample in range(2):
        request = Request(PROMPT, 60, temperature, sample=sample, question_id="q")
        a, b = (generate(t, d, request) for t, d in zip((target, still), drafters))
        assert a.output_ids == b.output_ids
        assert a.accept_lengths == b.accept_lengths
        assert a.sources == b.sources
    assert still.static is not None and still.engine == "graph"


@pytest.mark.parametrize("method", ("eagle3", "sam_eagle3", "recycling"))
def test_nothing_of_a_step_is_kept_that_the_next_one_overwrites(method, monkeypatch, target, artefacts):
    """A captured graph writes its outputs to the same memory in every replay: so here."""
    honest, memory = StaticForward._body, {}

    def body(self, key):
        made = dataclasses.asdict(honest(self, key))
        for name, new in made.items():
            if new is not None:
                kept = memory.setdefault(name, torch.zeros(static.MOST_ROWS, new.shape[1], dtype=new.dtype))
                made[name] = kept[:len(new)].copy_(new)
        return static.Outputs(**made)

    monkeypatch.setattr(StaticForward, "_body", body)
    still, request = static_target(qwen3()), Request(PROMPT, 60)
    a, b = (generate(t, draft.load(method, t, artefacts.get(method, {})), request) for t in (target, still))
    assert (a.output_ids, a.accept_lengths) == (b.output_ids, b.accept_lengths)
    drafter, seen = draft.load(method, still, artefacts.get(method, {})), []
    learn = drafter.observe
    monkeypatch.setattr(drafter, "observe", lambda out: (seen.append((out.features, copy.deepcopy(out.features))), learn(out)))
    generate(still, drafter, request)
    assert all(kept is None or torch.equal(kept, then) for kept, then in seen)


@pytest.mark.parametrize("top", ({"top_k": 5}, {"top_p": 0.7}))
def test_what_the_forward_cannot_pick_is_picked_behind_it(top, target, still, load):
    request = Request(PROMPT, 40, 0.9, **top)
    for method in ("vanilla", "recycling"):
        assert generate(still, load(method), request).output_ids == generate(target, load(method), request).output_ids


@pytest.mark.parametrize("make", (qwen3, llama))
@pytest.mark.parametrize("rows", (1, 3, 8, 9, 64, 65, 128))
def test_a_buckets_unused_rows_change_nothing(make, rows):
    ids = [(5 * i) % VOCAB for i in range(150)]
    plain, padded = Target(make(), engine="eager"), static_target(make())
    for target in (plain, padded):
        target.reserve(400)
        target.forward([Segment(0, 0, ids, range(150))], last_only=True)
    generator = np.random.default_rng(rows)
    mask = np.tri(rows, dtype=bool) & (generator.random((rows, rows)) < 0.6) | np.eye(rows, dtype=bool)
    segment = Segment(0, 150, ids[:rows], [150 + i % 7 for i in range(rows)], torch.from_numpy(mask))
    a, b = (t.forward([segment], choice=Choice(), topk=3) for t in (plain, padded))
    torch.testing.assert_close(b.logits, a.logits, atol=1e-5, rtol=1e-4)
    assert torch.equal(b.picked[:, 0], a.logits.argmax(-1))
    assert torch.equal(b.picked[:, 2:], a.logits.topk(3).indices)
    for t in (plain, padded):
        t.keep(0, 150, [0, *range(2, rows, 2)])
    padded.static.flush()
    torch.testing.assert_close(padded.cache.data[..., :150 + (rows + 1) // 2, :, :],
                               plain.cache.data[..., :150 + (rows + 1) // 2, :, :], atol=1e-5, rtol=1e-4)


def test_ancestors_survive_their_packing():
    mask = np.tri(70, dtype=bool) & (np.random.default_rng(0).random((70, 70)) < 0.5)
    words = torch.from_numpy(ancestor_words(mask, 70).copy()).view(70, 2, 1)
    unpacked = ((words >> torch.arange(64)) & 1).bool().reshape(70, 128)
    assert np.array_equal(unpacked[:, :70].numpy(), mask) and not unpacked[:, 70:].any()


def test_a_long_accepted_path_is_moved_at_once(still, load):
    """Paths beyond what a graph moves: a right chain beside a wrong sibling, 40 deep."""
    from tests.test_conformance import Scripted

    request = Request(PROMPT, 90)
    text = generate(still, load("vanilla"), request).output_ids

    def beside(context):
        chain = text[context.emitted:context.emitted + 40]
        if not chain:
            return draft.Draft.only_root(context.root)
        wrong = (chain[0] + 1) % VOCAB
        tokens = [context.root, wrong, *chain]
        return draft.Draft(tokens, [-1, 0, 0, *range(2, len(tokens) - 1)], len(tokens), "beside")

    result = generate(still, Scripted(beside, 64), request)
    assert result.output_ids == text and max(result.accept_lengths) > static.MOVES


def test_prepare_records_every_bucket_once():
    target = static_target(qwen3(layers=2))
    target.reserve(300)
    assert target.prepare(20, topk=2)
    made = [key.rows for key in target.static._graphs]
    assert made == [24, 16, 8, 4, 2, 1]
    generate(target, draft.load("recycling", target, {"recycling_topk": 2}), Request(PROMPT, 20), max_nodes=20)
    assert [key.rows for key in target.static._graphs] == made


@pytest.mark.parametrize("broken", ("raises", "differs", "stores"))
def test_a_graph_that_does_not_reproduce_the_model_is_given_up(broken, monkeypatch, load, target):
    honest = StaticForward._body

    def body(self, key):
        if broken == "raises":
            raise RuntimeError("no kernel for this chip\nand a long trace")
        outputs = honest(self, key)
        if broken == "stores":
            self._cache.data[:, :, 0, self._inputs.host["start"][0]] += 1
            return outputs
        return dataclasses.replace(outputs, logits=outputs.logits + 1)

    monkeypatch.setattr(StaticForward, "_body", body)
    still = static_target(qwen3())
    with pytest.warns(UserWarning, match="engine 'graph' does not work here .*going on with 'eager'"):
        result = generate(still, load("recycling"), Request(PROMPT, 30))
    assert still.engine == "eager" and result.output_ids == generate(target, load("vanilla"), Request(PROMPT, 30)).output_ids


def test_fused_parts_are_compiled_once_for_all_layers_and_change_no_token(load, target):
    """Inductor on a CPU: the operator stays whole, no part is compiled for each layer anew."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    fused = Target(qwen3(), engine="compile")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for method in ("vanilla", "recycling"):
            request = Request(PROMPT, 40, 0.5)
            assert generate(fused, load(method), request).output_ids == generate(target, load(method), request).output_ids
    assert fused.engine == "compile"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 9  # 3 parts: one row, the first bucket, any bucket
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("rows", (1, 2, 3, 7, 16))
@pytest.mark.parametrize("k", (1, 4))
def test_the_whole_draft_at_once_is_the_draft_by_levels(rows, k, artefacts, target):
    drafter = draft.load("eagle3", target, artefacts["eagle3"])
    for part in (drafter.head.midlayer.self_attn.q_proj, drafter.head.midlayer.self_attn.k_proj):
        part.weight.data *= 20  # attention sharp enough for positions to matter
    torch.manual_seed(rows)
    features = torch.randn(50 + rows, 3 * target.config.hidden_size)
    tokens = torch.randint(VOCAB, (50 + rows,)).tolist()
    states = [DraftState(drafter.head, drafter.embedding, 256) for _ in range(2)]
    for state in states:
        state.catch_up(features[:50], tokens[:50])
    whole = StaticDraft(states[1], k, 3, 11)
    assert whole.takes(rows)
    states[0].catch_up(features[50:], tokens[50:])
    with torch.inference_mode():
        found = whole.step(features[50:], tokens[50:])
    assert found == states[0].grow(k, 3, 11)
    assert states[0].stable == states[1].stable
    torch.testing.assert_close(states[0].cache[:, :states[0].stable], states[1].cache[:, :states[0].stable])


def test_preparing_one_bucket_that_is_given_up_prepares_nothing(monkeypatch):
    """Vanilla has one bucket: the engine may fall back in the only round."""
    target = static_target(qwen3(layers=2))
    target.reserve(300)
    monkeypatch.setattr(StaticForward, "_body", lambda self, key: 1 / 0)
    with pytest.warns(UserWarning, match="going on with 'eager'"):
        assert not target.prepare(1)
    assert target.engine == "eager"


def test_a_draft_that_cannot_be_recorded_is_drafted_level_by_level(monkeypatch, artefacts, target):
    drafters = [draft.load("eagle3", target, artefacts["eagle3"]) for _ in range(3)]
    request = Request(PROMPT, 40)
    plain = generate(target, drafters[0], request)
    for drafter in drafters[1:]:
        drafter._static = True
    monkeypatch.setattr(StaticDraft, "_body", lambda self, rows: 1 / 0)
    with pytest.warns(UserWarning, match="cannot be recorded here .ZeroDivisionError"):
        assert generate(target, drafters[1], request).accept_lengths == plain.accept_lengths
    monkeypatch.setattr(StaticDraft, "_body", lambda self, rows: torch.stack([
        torch.arange(1, self._nodes + 1), torch.full((self._nodes,), 3), torch.arange(self._nodes)]))
    with pytest.warns(UserWarning, match="level by level"):
        assert generate(target, drafters[2], request).accept_lengths == plain.accept_lengths


def test_a_larger_cache_lets_go_of_the_old_one():
    import gc
    import weakref

    target = static_target(qwen3(layers=2))
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


COMPILES = """
import itertools
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from model.engine import kernels
TYPES = {"start_at": "*i64", "mask": "*u8", "partial": "*fp32", "logsum": "*fp32", "scaling": "fp32", "keys": "*i64",
         "temperature": "*fp64", "best_score": "*fp32", "best_token": "*i64"}
def compiled(kernel, constants, dtype, stages):
    names = kernel.arg_names
    kinds = {n: "constexpr" if n in constants else TYPES.get(n) or ("*" + dtype if n in TENSORS else "i32") for n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names)
               if n not in constants and n not in ("rows", "new_rows", "pieces", "scaling", "entries", "vocabulary")}
    source = ASTSource(kernel, kinds, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": stages})
TENSORS = ("query", "key", "value", "cached_keys", "cached_values", "out", "logits")
for dtype, tile, store, dim in itertools.product(("bf16", "fp32"), (16, 64), (True, False), (64, 128)):
    wide = dtype == "fp32"
    if wide and tile > 16:
        continue
    stages = 1 if wide or not store else 2 if tile == kernels.TILE else 3
    shapes = {"HEADS": 32, "GROUPS": 4, "DIM": dim, "TILE_M": tile, "BLOCK_N": kernels.BLOCK, "STORE": store,
              "PRECISION": "ieee" if wide else "tf32"}
    shared = compiled(kernels._attend_piece, shapes, dtype, stages).metadata.shared
    assert shared <= 116 << 10, (dtype, tile, store, shared)  # two programs a multiprocessor of 228 KiB
compiled(kernels._merge, {"PIECES": 33, "SLOTS": 64, "DIM": 128}, "bf16", 3)
compiled(kernels._sample_block, {"BLOCK_V": kernels.VOCABULARY_BLOCK}, "bf16", 3)
print("kernels compile")
"""


def test_the_kernels_compile_for_a_hopper_gpu():
    """Triton's compiler needs no GPU; its interpreter does not check types."""
    pytest.importorskip("triton")
    run = subprocess.run([sys.executable, "-c", COMPILES], capture_output=True, text=True, cwd=Path(__file__).parents[1],
                         env={**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": "."}, check=False)
    assert "kernels compile" in run.stdout, run.stderr[-3000:]


def test_attention_with_lengths_on_the_device_against_plain_softmax():
    torch.manual_seed(0)
    q, k, v, cache = torch.randn(3, 4, 16), torch.randn(5, 2, 16), torch.randn(5, 2, 16), torch.randn(2, 40, 2, 16)
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
    assert torch.equal(cache[:, 17:20], torch.stack([k[:3], v[:3]])) and torch.equal(cache[:, 20:], before[:, 20:])


def test_drawing_on_the_device_is_drawing_on_the_host():
    noise, logits = PositionNoise(7 << 60), torch.randn(6, 500) * 2
    keys = torch.tensor(noise.keys(list(range(6))))
    found = draw(logits, keys, torch.tensor([0.6], dtype=torch.float64))
    assert torch.equal(found, target_tokens(logits, list(range(6)), 0, Request([1], 1, 0.6), noise))


KERNELS = """
import torch
from model.engine import kernels
from model.engine.sampling import PositionNoise, exponential, noisy_argmax
from model.engine.tree_attention import reference
torch.manual_seed(0)
shapes = ((1, 1, 4, 2, 32, 300, 200), (5, 5, 4, 4, 16, 300, 1), (48, 48, 4, 1, 64, 400, 300), (10, 30, 4, 1, 32, 300, 77),
          (3, 3, 4, 2, 32, 100, 0), (128, 128, 2, 1, 16, 500, 193), (2, 2, 8, 2, 128, 400, 256))
for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 3e-3)):
    for rows, new, heads, kv_heads, dim, positions, start in shapes:
        q, k, v = (torch.randn(n, h, dim).to(dtype) for n, h in ((rows, heads), (new, kv_heads), (new, kv_heads)))
        cache, mask = torch.randn(2, positions, kv_heads, dim).to(dtype), torch.rand(rows, new) < 0.5
        mask[:, 0] = True
        written, at = cache.clone(), torch.tensor([start])
        for processors in (1, 9):  # one piece of the prefix, and several, the last ones empty
            found = kernels.attend(q, k, v, written, at, mask, dim**-0.5, True, processors).float()
            expected = reference(q.float(), k.float(), v.float(), cache.float(), at, mask, dim**-0.5)
            assert (found - expected).abs().max() < tolerance, (dtype, rows, processors)
        cache[:, start:start + new] = torch.stack([k, v])
        assert torch.equal(written, cache)
        turned = kernels.attend(q.transpose(0, 1).contiguous().transpose(0, 1), k, v, cache, at, mask, 0.2, False, 8)
        assert torch.equal(turned, kernels.attend(q, k, v, cache, at, mask, 0.2, False, 8))
logits, keys = torch.randn(3, 9001) * 3, torch.tensor(PositionNoise(1 << 63 | 5).keys([0, 1, 9999]))
heat = torch.tensor([0.7], dtype=torch.float64)
assert torch.equal(kernels.sample(logits, keys, heat), noisy_argmax(logits / 0.7, exponential(keys, 9001)))
print("kernels agree")
"""

WHOLE_PATH = """
import torch
from model import draft
from model.draft import Request
from model.engine.decode import generate
from model.engine.target import Target
from tests.conftest import PROMPT, qwen3
from tests.test_static import static_target
plain, still = Target(qwen3(layers=2)), static_target(qwen3(layers=2))
for method, temperature in (("recycling", 0.0), ("pld", 0.7)):
    request = Request(PROMPT, 10, temperature)
    texts = [generate(t, draft.load(method, t), request).output_ids for t in (plain, still)]
    assert texts[0] == texts[1], (method, texts)
assert still.engine == "graph"
print("texts agree")
"""


@pytest.mark.parametrize(("program", "said"), ((KERNELS, "kernels agree"), (WHOLE_PATH, "texts agree")))
def test_tritons_interpreter_agrees_with_the_reference(program, said):
    """The GPU's kernels, executed on the CPU by Triton's own interpreter (a process of its own: it is chosen on import)."""
    pytest.importorskip("triton")
    code = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=code,
                         env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(code)}, check=False)
    assert said in run.stdout, run.stderr[-2000:]


def test_the_gpu_bench_runs_whole_on_a_cpu(tmp_path):
    code = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "bench/gpu.py", "--out", str(tmp_path / "gpu"), "--repeats", "2", "--tokens", "24",
                          "--second", "tiny-draft"], capture_output=True, text=True, cwd=code, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["equal"] == {"eager": True, "graph": True, "lossless": True}
    costs = next(v for k, v in found.items() if k.startswith("Step cost"))
    assert [row[0] for row in costs["rows"]] == [m for m in draft.names()]  # a method that emits another text is named so
    assert "n = 64" in (tmp_path / "gpu.md").read_text()


def test_buckets_cover_every_published_draft(target, load):
    assert max(load(m).needs.max_nodes for m in METHODS) <= BUCKETS[-1]


def test_the_reference_is_used_where_no_kernel_is():
    q, kv, cache = torch.randn(1, 2, 12), torch.randn(1, 2, 12), torch.randn(2, 8, 2, 12)
    mask, start = torch.ones(1, 1, dtype=torch.bool), torch.tensor([3])
    assert torch.equal(tree_attention(q, kv, kv, cache, start, mask, 0.2, False), reference(q, kv, kv, cache, start, mask, 0.2))
