"""Each drafter against an independent reference: Hugging Face's, plain runs, its definition."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from model import methods
from model.contract import Context, Draft, Prefill, Request, StepOut
from model.drafters.lookahead import WindowSize
from model.drafters.recycling import static_tree
from model.engine.decode import Member, context, generate, prefill
from model.engine.model import Model
from model.engine.noise import PositionNoise
from model.engine.sequence import Sequence
from model.engine.verify import tree_mask, verify
from model.errors import UserError
from model.index import counted_automaton, suffix_automaton
from tests.conftest import PROMPT, VOCAB, qwen3, random_head
from tests.test_engine import hugging_face


def propose(drafter, prompt: list[int], first: int, max_nodes: int = 100, **more) -> Draft:
    request = Request(prompt, 100, **more)
    drafter.start(request, Prefill(first))
    return drafter.propose(
        Context(
            first,
            len(prompt),
            1,
            99,
            min(max_nodes, drafter.needs.max_nodes),
            request,
            PositionNoise.of(request),
        )
    )


# --- PLD and SAM ----------------------------------------------------------------------------------
def test_pld_copies_a_full_continuation_of_the_oldest_match(load):
    text = [*range(1, 14), 1, 2, 3]
    assert list(propose(load("pld"), text[:-1], 3).tokens[1:]) == list(range(4, 14))
    short = [*range(1, 10), 1, 2, 3]
    assert len(propose(load("pld"), short[:-1], 3).tokens) == 1
    assert list(propose(load("pld", pld_partial=True), short[:-1], 3).tokens[1:]) == [
        *range(4, 10),
        1,
        2,
        3,
    ]
    twice = [1, 2, 3, *range(20, 30), 1, 2, 3, *range(30, 40), 1, 2, 3]
    assert list(propose(load("pld"), twice[:-1], 3).tokens[1:]) == list(range(20, 30))


def test_pld_yields_hugging_faces_prompt_lookup_text(load):
    model = qwen3()
    with torch.inference_mode():
        theirs = model.generate(
            torch.tensor([PROMPT]),
            max_new_tokens=60,
            do_sample=False,
            prompt_lookup_num_tokens=10,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(PROMPT) :].tolist()
    assert generate(Model(qwen3()), load("pld"), Request(PROMPT, 60)).output_ids == theirs


def test_sam_example(load):
    sam = load("sam")
    assert list(propose(sam, [1, 2, 3, 4, 1, 2], 3).tokens[1:]) == [4, 1, 2, 3]
    sam.forget()
    assert len(propose(sam, [1, 2, 3, 4, 1, 2], 9).tokens) == 1


def test_sam_drafts_an_identical_second_sample_almost_whole(target, load):
    sam = load("sam")
    sam.enter("question", "q")
    first = generate(target, sam, Request(PROMPT, 80))
    sam.enter("request", "again")
    second = generate(target, sam, Request(PROMPT, 80))
    assert len(second.accept_lengths) <= 80 // 20 < len(first.accept_lengths)
    sam.enter("question", "other")
    assert generate(target, sam, Request(PROMPT, 80)).accept_lengths == first.accept_lengths


def test_no_draft_runs_from_one_request_into_the_next(load):
    sam = load("sam")
    sam.start(Request([5, 6, 7], 9), Prefill(8))
    found = propose(sam, [1, 6, 7], 8)
    assert list(found.tokens[1:]) == []


def test_sam_with_a_static_automaton_is_lossless_and_drafts_from_the_corpus(
    target, load, artefacts
):
    static = load("sam", sam_corpus=artefacts["rest"]["rest_datastore"])
    document = [(3 * i * i) % VOCAB for i in range(40)]
    request = Request(document[:12], 50, temperature=0.6)
    found = generate(target, static, request)
    assert "sam_corpus" in found.sources
    assert found.output_ids == generate(target, load("vanilla"), request).output_ids
    assert list(propose(static, document[:8], document[8]).tokens[1:4]) == document[9:12]


# --- Token Recycling ------------------------------------------------------------------------------
def test_recyclings_static_tree():
    t = static_tree(8)
    assert len(t.parents) == 81
    assert [t.depths.count(d) for d in range(1, 7)] == [8, 21, 25, 15, 8, 3]
    assert len(set(range(81)) - set(t.parents)) == 40
    assert all(p < i for i, p in enumerate(t.parents))


def test_recyclings_matrix_is_the_targets_top_8(load):
    target, drafter = Model(qwen3(), engine="eager"), load("recycling")
    target.reserve(300)
    request = Request(PROMPT, 30)
    sequence = Sequence(request)
    drafter.start(request, *prefill(target, [Member(drafter, sequence)]))
    while not sequence.emission.finished:
        before = sequence.cached
        prefix = (PROMPT + sequence.ids)[:before]
        proposed = drafter.propose(context(sequence, drafter, 100))
        out = verify(target, [(sequence, proposed)], drafter.needs).outs[0]
        drafter.observe(out)
        last = {
            token: node for node, token in enumerate(proposed.tokens)
        }  # the last node of a token wins
        for token, node in last.items():
            path, at = [], node
            while at >= 0:
                path.insert(0, proposed.tokens[at])
                at = proposed.parents[at]
            with torch.inference_mode():
                logits = qwen3()(torch.tensor([prefix + path])).logits[0, -1]
            assert drafter.matrix[token].tolist() == logits.topk(8).indices.tolist()
        if sequence.cached > len(PROMPT) + 6:
            break


# --- REST, PIA ------------------------------------------------------------------------------------
def test_pia_root_stays_the_root_even_as_token_0(load):
    pia = load("pia")
    found = propose(pia, [7, 0, *range(10, 30), 7], 0)
    assert found.tokens[0] == 0 and list(found.tokens[1:13]) == list(range(10, 22))


def test_pia_feeds_every_transition_once(load):
    pia = load("pia")
    request = Request([1, 2, 3], 40)
    pia.start(request, Prefill(4))
    stream = [5, 6, 7, 5, 6, 8, *range(20, 40)]
    for i in range(0, len(stream), 3):
        root = ([4, *stream])[i]
        pia.observe(StepOut(Draft.only_root(root), [0], stream[i : i + 3], False))
        pia.during_verify()
    pia.finish(request, [4, *stream])
    text = [3, 4, *stream]
    for a, b in itertools.pairwise(text):
        pairs = list(itertools.pairwise(text)).count((a, b))
        assert pia.trie.frequencies([a, b])[1] == pairs


# --- Lookahead ------------------------------------------------------------------------------------
def test_lookahead_fills_its_levels_as_specified(target, load):
    drafter = load("lookahead")
    target.reserve(300)
    request = Request(PROMPT, 40)
    sequence = Sequence(request)
    drafter.start(request, *prefill(target, [Member(drafter, sequence)]))
    expected = [[8, 9], [7, 8, 8], [6, 7, 7, 7], [6, 7, 7, 7], [6, 7, 7, 7]]
    for lengths in expected:
        proposed = drafter.propose(context(sequence, drafter, 100))
        out = verify(target, [(sequence, proposed)], drafter.needs).outs[0]
        drafter.observe(out)
        assert [len(level) for level in drafter.levels] == lengths
    assert all(len(gram) == 4 for grams in drafter.pool.values() for gram in grams)


def test_lookaheads_extra_nodes_equal_plain_runs_of_what_they_attend(load):
    target, drafter = Model(qwen3(), engine="eager"), load("lookahead")
    target.reserve(300)
    request = Request(PROMPT, 40)
    sequence = Sequence(request)
    drafter.start(request, *prefill(target, [Member(drafter, sequence)]))
    for _ in range(6):
        proposed = drafter.propose(context(sequence, drafter, 100))
        mask, depths = tree_mask(proposed), proposed.depths()
        prefix = (PROMPT + sequence.ids)[: sequence.cached]
        out = verify(target, [(sequence, proposed)], drafter.needs).outs[0]
        drafter.observe(out)
        for i, found in enumerate(out.extra_argmax):
            node = proposed.candidates + i
            seen = [j for j in np.flatnonzero(mask[node]) if j != node] + [node]
            positions = [depths[j] for j in seen]
            assert sorted(positions) == list(range(len(seen)))
            tokens = [proposed.tokens[j] for _, j in sorted(zip(positions, seen))]
            with torch.inference_mode():
                logits = qwen3()(torch.tensor([prefix + tokens])).logits[0, -1]
            assert int(logits.argmax()) == found


def test_lookahead_emits_a_fully_matched_n_gram_and_the_bonus(target, load):
    drafter = load("lookahead")
    request = Request(PROMPT, 40)
    text = generate(target, load("vanilla"), request).output_ids
    sequence = Sequence(request)
    drafter.start(request, *prefill(target, [Member(drafter, sequence)]))
    drafter.pool = {text[0]: {tuple(text[1:5]): None}}
    proposed = drafter.propose(context(sequence, drafter, 100))
    out = verify(target, [(sequence, proposed)], drafter.needs).outs[0]
    assert out.emitted == text[1:6]


@pytest.mark.parametrize("nodes", (10, 12, 20, 60))
def test_lookaheads_window_fits_small_budgets(nodes):
    assert WindowSize(5, 7).fitted(nodes).extra_nodes <= max(0.6 * nodes, 3)


# --- SpS ------------------------------------------------------------------------------------------
def test_sps_yields_hugging_faces_assisted_text(load):
    model, assistant = qwen3(), qwen3(seed=1, layers=2)
    with torch.inference_mode():
        theirs = model.generate(
            torch.tensor([PROMPT]),
            max_new_tokens=50,
            do_sample=False,
            assistant_model=assistant,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(PROMPT) :].tolist()
    assert (
        generate(Model(qwen3()), load("sps"), Request(PROMPT, 50)).output_ids
        == theirs
        == hugging_face(model, PROMPT, 50)
    )


def test_sps_drafts_are_the_draft_models_own_text(load):
    """After every step the draft equals a fresh greedy run of the draft model: its cache is kept
    right.
    """
    target, drafter = Model(qwen3()), load("sps")
    target.reserve(200)
    request = Request(PROMPT, 40)
    sequence = Sequence(request)
    drafter.start(request, *prefill(target, [Member(drafter, sequence)]))
    for _ in range(8):
        proposed = drafter.propose(context(sequence, drafter, 100))
        expected = hugging_face(qwen3(seed=1, layers=2), PROMPT + sequence.ids, 5)
        assert list(proposed.tokens[1:]) == expected[: len(proposed.tokens) - 1]
        out = verify(target, [(sequence, proposed)], drafter.needs).outs[0]
        drafter.observe(out)


def test_sps_with_the_target_as_draft_model_is_always_right(target, load, tmp_path):
    qwen3().save_pretrained(tmp_path)
    for temperature in (0.0, 0.8):
        same = load("sps", sps_model=str(tmp_path), sps_tokens=5)
        result = generate(target, same, Request(PROMPT, 60, temperature=temperature))
        assert set(result.accept_lengths[:-1]) == {6}


def test_sps_schedules(target, load):
    confident = load("sps", sps_tokens=8, sps_confidence=0.99)
    assert max(generate(target, confident, Request(PROMPT, 40)).draft_lengths) < 8
    heuristic = load("sps", sps_schedule="heuristic", sps_tokens=5)
    lengths = generate(target, heuristic, Request(PROMPT, 60, temperature=1.0)).draft_lengths
    assert min(lengths) < 5
    with pytest.raises(UserError, match="constant, heuristic"):
        load("sps", sps_schedule="often")


def test_sps_rejection_mode_draws_from_the_target(target, load):
    """The first two tokens over many seeds have the target's distribution, though the texts are not
    vanilla's.
    """
    from tests.test_sampling import Counter, p_value

    drafter = load("sps", sps_mode="rejection", sps_tokens=2)
    counts: Counter = Counter()
    runs = 600
    for seed in range(runs):
        counts[tuple(generate(target, drafter, Request(PROMPT, 2, 1.0, seed=seed)).output_ids)] += 1
    with torch.inference_mode():
        first = qwen3()(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)
        second = torch.stack([qwen3_logits([*PROMPT, t]) for t in range(VOCAB)]).softmax(-1)
    expected = {(a, b): float(first[a] * second[a, b]) for a in range(VOCAB) for b in range(VOCAB)}
    assert p_value(counts, expected, runs) > 1e-3


def qwen3_logits(ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return qwen3()(torch.tensor([ids])).logits[0, -1]


# --- composition and loading ----------------------------------------------------------------------
def test_sam_with_an_inner_drafter_uses_both(target, load):
    hybrid = load("sam_eagle3")
    hybrid.enter("question", "q")
    generate(target, hybrid, Request(PROMPT, 80))
    sources = generate(target, hybrid, Request(PROMPT, 80)).sources
    assert {"sam", "eagle3"} & set(sources) and "sam" in sources


def test_every_method_has_a_config_with_help():
    for name in methods.names():
        for config in methods.config_types(name):
            assert dataclasses.is_dataclass(config)
            assert all(f.metadata.get("help") for f in dataclasses.fields(config))


def test_unknown_methods_and_options(target):
    with pytest.raises(UserError, match="did you mean 'eagle3'"):
        methods.load("eagel3", target)
    with pytest.raises(UserError, match="unknown method"):
        methods.load("sam[nothing]", target)
    with pytest.raises(UserError, match="no option colour"):
        methods.load("pld", target, {"colour": 1})


def test_artefacts_of_another_target_are_refused(target, load, tmp_path):
    from model.eagle3.checkpoint import save_head
    from model.index import suffix_array

    other = qwen3(seed=2)
    other.resize_token_embeddings(VOCAB + 8)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="another vocabulary"):
        load("sps", sps_model=str(tmp_path / "other"))
    suffix_array.build(tmp_path / "store", [[1, 2]], {"vocab_size": VOCAB, "tokenizer": "abc"})
    with pytest.raises(UserError, match="another tokenizer"):
        load("rest", rest_datastore=str(tmp_path / "store"))
    with pytest.raises(UserError, match="cannot use datastore"):
        load("rest", rest_datastore=str(tmp_path / "nothing"))
    save_head(random_head(target).head, tmp_path / "head")
    with pytest.raises(UserError, match="a target of hidden size 32; this target has 64"):
        methods.load("eagle3", Model(qwen3(hidden=64)), {"eagle_head": str(tmp_path / "head")})
    weights = tmp_path / "head" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        load("eagle3", eagle_head=str(tmp_path / "head"))


@pytest.mark.parametrize("method", ("sam", "suffix", "blend", "sam_eagle3"))
def test_what_a_run_remembers_stays_bounded(method, monkeypatch, target, load):
    """Its newest texts, and the text is vanilla's all the same."""
    monkeypatch.setattr(suffix_automaton.SuffixAutomaton.__init__, "__defaults__", (200,))
    monkeypatch.setattr(counted_automaton.CountedAutomaton.__init__, "__defaults__", (200,))
    drafter, vanilla = load(method), load("vanilla")
    drafter.remember("run")
    drafter.enter("run", "r")
    held = []
    for sample in range(8):
        drafter.enter("question", str(sample))
        request = Request(PROMPT, 40, 0.8, sample=sample)
        made = generate(target, drafter, request).output_ids
        assert made == generate(target, vanilla, request).output_ids
        held.append(len(memory_of(drafter)))
    one_text = held[0]
    assert one_text < held[1] and max(held) <= 200 + one_text


def memory_of(drafter):
    for name in ("automaton", "_automaton"):
        if found := getattr(drafter, name, None):
            return found
    memory = drafter.memory
    return getattr(memory, "automaton", None) or memory._outputs
