"""STAND: its memory against a dictionary, its draws against the engine's noise, its tree's file."""

import json
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import fit_tree, inference
from model.contract import Prefill, Request, StepOut
from model.drafters.stand import BUILT_IN_TREE, Stand
from model.engine.decode import generate
from model.engine.noise import PositionNoise
from model.errors import UserError
from model.index import topk_ngrams
from model.index.topk_ngrams import CONTEXT, TOP, TopkNgrams
from model.static_tree import StaticTree

CHAIN_AND_SIBLINGS = StaticTree.of({(0,): 0.6, (1,): 0.2, (0, 0): 0.4, (0, 1): 0.1, (1, 0): 0.1})


class Dictionary:
    """The paper's rule word for word: mean probabilities by n-gram."""

    def __init__(self):
        self.rows = {}
        self.counts = defaultdict(int)

    def learn(self, text, tokens, chances):
        first = len(text) - len(tokens)
        for i, (known, likely) in enumerate(zip(tokens, chances, strict=True)):
            for length in range(1, min(CONTEXT, first + i + 1) + 1):
                context = tuple(text[first + i + 1 - length : first + i + 1])
                k = self.counts[context]
                self.counts[context] += 1
                row = {t: p * k / (k + 1) for t, p in self.rows.get(context, {}).items()}
                for token, chance in zip(known, likely, strict=True):
                    row[token] = row.get(token, 0) + chance / (k + 1)
                best = sorted(row, key=lambda token: -row[token])[:TOP]
                self.rows[context] = {token: row[token] for token in best}


def rows_of(rng, count, vocab=40):
    """(tokens, log-probabilities) of random distributions."""
    logits = torch.from_numpy(rng.normal(size=(count, vocab)) * 3)
    best = logits.log_softmax(-1).topk(TOP)
    return best.indices.numpy().astype(np.int32), best.values.numpy().astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=30), max_size=6), st.integers(0))
def test_the_memory_is_the_running_mean_by_ngram(texts, seed):
    rng = np.random.default_rng(seed % 2**32)
    memory, reference = TopkNgrams(), Dictionary()
    for text in texts:
        tokens, logprobs = rows_of(rng, int(rng.integers(1, len(text) + 1)))
        memory.learn(text, tokens, logprobs)
        in_half_precision = logprobs.astype(np.float16).astype(np.float32)
        reference.learn(text, tokens.tolist(), np.exp(in_half_precision).tolist())
    assert len(memory) == len(reference.rows)
    for context, row in reference.rows.items():
        tokens, chances = memory.row(context)
        assert chances == pytest.approx(list(row.values()), abs=1e-5)
        # equal chances may stand in another order
        assert dict(zip(tokens, chances, strict=True)) == pytest.approx(row, abs=1e-5)


def test_its_noise_is_the_engines():
    noise = PositionNoise(987654321)
    expected = noise.exponential([3, 70], 500, torch.device("cpu")).double().numpy()
    keys = np.array(noise.keys([3, 70]), dtype=np.int64).view(np.uint64)
    with np.errstate(over="ignore"):
        found = [[topk_ngrams._noise(key, token) for token in range(500)] for key in keys]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("temperature", (0.0, 0.6, 1.0))
def test_the_first_child_is_what_the_target_would_draw(temperature):
    """Where the memory knows the target's distribution, draft and target draw the same token."""
    rng, noise = np.random.default_rng(5), PositionNoise(3)
    hits = 0
    for number in range(200):
        memory = TopkNgrams()
        logits = torch.from_numpy(rng.normal(size=TOP) * 2).log_softmax(-1)
        order = logits.argsort(descending=True)
        memory.learn([7], order[None].numpy().astype(np.int32), logits[order][None].numpy())
        keys = noise.keys([number])
        nodes, tokens = memory.draft(
            [7], CHAIN_AND_SIBLINGS, 2, np.array([], np.int64), temperature, keys
        )
        scores = logits
        if temperature:
            exponential = noise.exponential([number], TOP, torch.device("cpu"))[0]
            scores = logits / temperature - exponential.log()
        hits += tokens[0] == int(scores.argmax())
        assert nodes.tolist() == [1]
    assert hits == 200


def test_the_longest_known_context_is_followed_and_nothing_below_a_stop():
    memory = TopkNgrams()
    tokens = np.arange(TOP, dtype=np.int32)[None]
    sure = np.log(np.array([[0.9] + [0.01] * (TOP - 1)], dtype=np.float32))
    memory.learn([5], tokens + 20, sure)
    memory.learn([9, 5], tokens + 30, sure)
    no_stops, keys = np.array([], dtype=np.int64), [1, 2]
    _, drafted = memory.draft([9, 5], CHAIN_AND_SIBLINGS, 6, no_stops, 0.0, keys)
    assert drafted.tolist() == [30, 31]  # nothing is known after them
    # after 5 alone both contexts were met, once each
    assert memory.row([5])[0][:2] in ([20, 30], [30, 20])
    memory.learn([30], tokens + 5, sure)
    _, drafted = memory.draft([9, 5], CHAIN_AND_SIBLINGS, 6, no_stops, 0.0, keys)
    assert sorted(drafted.tolist()) == [5, 6, 30, 31]
    stops = np.array([30], dtype=np.int64)
    _, drafted = memory.draft([9, 5], CHAIN_AND_SIBLINGS, 6, stops, 0.0, keys)
    assert sorted(drafted.tolist()) == [30, 31]


def test_rare_contexts_are_dropped_where_there_are_too_many():
    memory = TopkNgrams(most_rows=40)
    rng = np.random.default_rng(0)
    often = [1, 2, 3, 4]
    for start in range(0, 60, 4):
        memory.learn(often, *rows_of(rng, 4))
        memory.learn(list(range(start + 10, start + 14)), *rows_of(rng, 4))
    kept = memory.row(often)
    memory.squeeze()
    assert len(memory) == 20 and memory.row(often) == kept
    memory.learn([90, 91], *rows_of(rng, 1))
    assert memory.row([90, 91])[0]


def test_bytes_a_context_are_as_stated():
    memory = TopkNgrams()
    rng = np.random.default_rng(0)
    while len(memory) < 20_000:
        memory.learn(rng.integers(0, 5000, 100).tolist(), *rows_of(rng, 100))
    full = sum(array.nbytes / len(array) for array in memory._arrays()[1:5])
    assert full == 100 and memory.bytes / len(memory) < 350  # arrays double, the table is sparse


def test_a_session_sees_what_another_learns_at_once(load):
    drafter = load("stand")
    one, other = drafter.session(), drafter.session()
    request = Request([1, 2, 3], 10)
    one.start(request, Prefill(4))
    other.start(request, Prefill(4))
    draft = one.memory.draft  # the same object
    assert one.memory is other.memory and draft.__self__ is other.memory
    assert one._recent is not other._recent


def test_it_accepts_more_when_it_has_seen_the_text(load, target):
    drafter = load("stand")
    drafter.enter("question", "1")
    first = generate(target, drafter, Request([1, 2, 3, 4, 5, 6], 60, temperature=0.6))
    again = generate(target, drafter, Request([1, 2, 3, 4, 5, 6], 60, temperature=0.6))
    assert first.output_ids == again.output_ids
    assert len(again.accept_lengths) < len(first.accept_lengths)


def test_the_built_in_tree_has_80_nodes():
    tree = StaticTree.read(BUILT_IN_TREE, TOP)
    assert len(tree) == 81 and list(tree.chances) == sorted(tree.chances, reverse=True)


def test_a_tree_survives_its_file(tmp_path):
    file = tmp_path / "tree.json"
    file.write_text(CHAIN_AND_SIBLINGS.text())
    assert StaticTree.read(file, TOP) == CHAIN_AND_SIBLINGS
    assert CHAIN_AND_SIBLINGS.first(3).paths() == [(), (0,), (0, 0)]


@pytest.mark.parametrize(
    ("text", "said"),
    (
        ("{", "JSONDecodeError"),
        ("{}", "'nodes'"),
        ("[1]", "TypeError"),
        ('{"nodes": []}', "no nodes"),
        ('{"nodes": [{"ranks": [], "accepted": 0.5}]}', "one or more of 0 to 9"),
        ('{"nodes": [{"ranks": [10], "accepted": 0.5}]}', "one or more of 0 to 9"),
        ('{"nodes": [{"ranks": [0, 0], "accepted": 0.5}]}', "before its parent"),
        ('{"nodes": [{"ranks": [0], "accepted": 1.5}]}', "no share from 0 to 1"),
        ('{"nodes": [{"ranks": [0], "accepted": 1}, {"ranks": [0], "accepted": 1}]}', "twice"),
    ),
)
def test_a_damaged_tree_is_refused(text, said, tmp_path):
    file = tmp_path / "tree.json"
    file.write_text(text)
    with pytest.raises(UserError, match="no file of a static tree") as refused:
        StaticTree.read(file, TOP)
    assert said in str(refused.value)


def test_a_missing_tree_is_refused(load, tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load("stand", stand_tree=str(tmp_path / "none.json"))


RUN = "--model-path mini --paradigm best_of_n --samples 3 --temperature 0.6 --warmup 0".split()


def recorded(folder, *flags):
    file = folder / "r.jsonl"
    few = ["--question-end", "2", "--max-new-tokens", "60", "--answer-file", str(file), *flags]
    inference.main_for("vanilla", [*RUN, *few])
    return file


def test_a_tree_is_fitted_and_used(tmp_path, capsys):
    file, out = recorded(tmp_path, "--record-topk", "10"), tmp_path / "tree.json"
    assert fit_tree.main([str(file), "--out", str(out), "--nodes", "20"]) == 0
    said = capsys.readouterr().out
    assert "20 nodes" in said and "--stand-tree" in said
    tree = StaticTree.read(out, TOP)
    assert len(tree) == 21
    nodes = json.loads(out.read_text())["nodes"]
    assert nodes[0]["accepted"] == max(node["accepted"] for node in nodes)
    again = tmp_path / "stand.jsonl"
    few = ["--question-end", "2", "--max-new-tokens", "60", "--answer-file", str(again)]
    inference.main_for("stand", [*RUN, *few, "--stand-tree", str(out)])


def test_where_no_file_can_be_a_tree_is_not_written(tmp_path):
    file = recorded(tmp_path, "--record-topk", "10")
    with pytest.raises(UserError, match="cannot write"):
        fit_tree.main([str(file), "--out", str(tmp_path)])
    inside = tmp_path / "new" / "tree.json"
    assert fit_tree.main([str(file), "--out", str(inside)]) == 0 and inside.exists()
    before = inside.read_text()
    with open(file, "a") as end:
        end.write("{half a li\n")
    with pytest.raises(UserError, match=r"not JSON .*--skip-bad-lines leaves it out"):
        fit_tree.main([str(file), "--out", str(inside)])
    assert fit_tree.main([str(file), "--out", str(inside), "--skip-bad-lines"]) == 0
    assert inside.read_text() == before


def test_records_without_likeliest_tokens_fit_no_tree(tmp_path):
    with pytest.raises(UserError, match="record-topk 10"):
        fit_tree.main([str(recorded(tmp_path)), "--out", str(tmp_path / "tree.json")])


def test_the_large_tree_is_the_published_ones_size():
    tree = fit_tree.large_tree(625, 20)
    assert len(tree) == 626 and max(tree.depths) <= 20


def test_counted_shares_make_the_tree():
    tree = CHAIN_AND_SIBLINGS
    drafter = fit_tree.CountingStand(tree)
    drafter.start(Request([1], 9), Prefill(2))
    drafter.drafted = np.array([1, 2, 3])
    out = StepOut(draft=None, path=[0, 1, 2], emitted=[4, 5, 6], finished=False)  # type: ignore[arg-type]
    drafter.observe(out)
    drafter.observe(StepOut(draft=None, path=[0], emitted=[7], finished=False))  # type: ignore[arg-type]
    assert isinstance(drafter, Stand)
    fitted = fit_tree.Fit(tree, drafter.accepted, drafter.steps).best(80)
    taken = [tree.paths()[1], tree.paths()[2]]
    assert fitted.paths()[1:] == taken and fitted.chances == (1.0, 0.5, 0.5)
