"""Texts made together are the texts made alone: every drafter, any mix of requests, any number."""

import dataclasses
from itertools import accumulate
from operator import mul
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.contract import Draft, Drafter, Forcing, Request
from model.drafters import eagle3
from model.drafting import DraftForward, drafted
from model.eagle3 import tree
from model.engine.backends.torchscript import TorchScript
from model.engine.decode import generate, generate_together
from model.engine.forward import Segment, Wanted
from model.engine.model import Model
from model.engine.rows import likeliest
from model.errors import UserError
from tests.conftest import METHODS, PROMPT, VOCAB, qwen3

STOP = frozenset({9})


def mixed(count: int, temperature: float, seed: int) -> list[Request]:
    """Requests of different prompts, budgets and ends, forced ends of thinking among them."""
    random = Random(seed)
    requests = []
    for sample in range(count):
        prompt = PROMPT if sample % 2 else [random.randrange(VOCAB) for _ in range(10 + sample)]
        forcing = Forcing(after=8, ids=(11, 12), end_id=12) if sample % 3 == 0 else None
        requests.append(
            Request(
                prompt_ids=list(prompt),
                max_new_tokens=random.randrange(1, 36),
                temperature=temperature,
                question_id="q",
                sample=sample,
                stop_ids=STOP,
                forcing=forcing,
            )
        )
    return requests


@pytest.fixture
def forwards(target, monkeypatch) -> list[list[int]]:
    """The rows of every segment, of every forward of the target."""
    seen = []
    real = target.forward

    def counted(segments, *rest):
        seen.append([len(segment) for segment in segments])
        return real(segments, *rest)

    monkeypatch.setattr(target, "forward", counted)
    return seen


def of_vanilla(target: Model, load, requests: list[Request]) -> list[list[int]]:
    return [generate(target, load("vanilla"), request).output_ids for request in requests]


@pytest.mark.parametrize("temperature", (0.0, 0.6, 1.0))
@pytest.mark.parametrize("method", METHODS)
def test_together_the_texts_are_vanillas_alone(method, temperature, target, load):
    count = {0.0: 3, 0.6: 5, 1.0: 8}[temperature]
    requests = mixed(count, temperature, seed=count)
    drafter = load(method)
    drafter.enter("run", "r")
    for question in ("first", "second"):  # the second finds states and caches of the first
        drafter.enter("question", question)
        made = generate_together(target, drafter, requests)
        assert [m.output_ids for m in made] == of_vanilla(target, load, requests)
        assert all(m.batch == count for m in made)


@pytest.mark.parametrize("count", (1, 2, 11, 16))
def test_any_number_together(count, target, load):
    requests = mixed(count, 0.6, seed=count)
    made = generate_together(target, load("blend_eagle3"), requests)
    assert [m.output_ids for m in made] == of_vanilla(target, load, requests)


@pytest.mark.parametrize("method", ("sam", "recycling", "stand", "blend_eagle3", "lookahead"))
@pytest.mark.parametrize("scope", ("request", "run"))
def test_in_every_scope(method, scope, target, load):
    drafter = load(method)
    drafter.remember(scope)
    requests = mixed(4, 0.6, seed=1)
    assert [m.output_ids for m in generate_together(target, drafter, requests)] == of_vanilla(
        target, load, requests
    )


def test_memory_of_a_request_is_not_shared(target, load):
    """Alone and together the drafts are the same where nothing is shared."""
    requests = [dataclasses.replace(r, max_new_tokens=30) for r in mixed(4, 0.6, seed=2)]
    for method in ("sam", "recycling", "pia", "stand", "suffix"):
        alone = []
        for request in requests:
            drafter = load(method)
            drafter.remember("request")
            drafter.enter("request", "r")
            alone.append(generate(target, drafter, request).accept_lengths)
        drafter = load(method)
        drafter.remember("request")
        drafter.enter("request", "r")
        together = generate_together(target, drafter, requests)
        assert [m.accept_lengths for m in together] == alone, method


@pytest.mark.parametrize("method", ("sam", "pia", "blend", "suffix[pld]"))
def test_memory_of_a_question_is_shared_while_it_grows(method, target, load):
    """Of two texts one is ten tokens ahead of the other: that other is drafted from it."""
    behind = Request(PROMPT, 40)
    ids = generate(target, load("vanilla"), behind).output_ids
    ahead = Request(PROMPT + ids[:10], 30, sample=1)
    steps = {}
    for scope in ("request", "question"):
        drafter = load(method)
        drafter.remember(scope)
        drafter.enter("question", "q")
        made = generate_together(target, drafter, [behind, ahead])
        assert made[0].output_ids == ids and made[1].output_ids == ids[10:]
        steps[scope] = len(made[0].accept_lengths)
    assert steps["question"] < steps["request"]


def test_equal_prompts_are_computed_once(target, load, forwards):
    requests = [Request(PROMPT, 1, temperature=0.6, sample=sample) for sample in range(5)]
    generate_together(target, load("vanilla"), requests)
    assert forwards == [[len(PROMPT)]]


def test_a_finished_text_gives_no_rows(target, load, forwards):
    requests = [Request(PROMPT, n, sample=n) for n in (2, 4, 6)]
    made = generate_together(target, load("vanilla"), requests)
    assert [len(segments) for segments in forwards] == [1, 3, 2, 2, 1, 1]
    assert [len(m.output_ids) for m in made] == [2, 4, 6]
    assert made[0].latency < made[1].latency < made[2].latency


def test_the_rows_of_a_step_are_shared_out(target, load, forwards):
    requests = [dataclasses.replace(r, max_new_tokens=25) for r in mixed(4, 0.6, seed=3)]
    expected = of_vanilla(target, load, requests)
    forwards.clear()
    made = generate_together(target, load("recycling"), requests, max_rows=12)
    prompts = len({tuple(r.prompt_ids) for r in requests})
    assert max(sum(rows) for rows in forwards[prompts:]) <= 12
    assert [m.output_ids for m in made] == expected


def test_texts_that_are_called_off_end_where_they_are(target, load):
    requests = [Request(PROMPT, n, 0.6, sample=n) for n in (5, 30, 40)]
    whole = of_vanilla(target, load, requests)
    asked = []

    def is_enough(sequences):
        asked.append([sequence.finished for sequence in sequences])
        return True

    drafter = load("sam")
    made = generate_together(target, drafter, requests, is_enough=is_enough)
    assert asked == [[True, False, False]]
    assert [m.finish_reason for m in made] == ["length", "unneeded", "unneeded"]
    assert made[0].output_ids == whole[0]
    for text, full in list(zip(made, whole, strict=True))[1:]:
        assert text.output_ids == full[: len(text.output_ids)]
        assert len(text.output_ids) < len(full) and text.latency > 0


def test_texts_that_are_sampled_otherwise_in_one_group(target, load):
    ways = [{}, {"temperature": 0.0}, {"sampling_top_k": 3}, {"sampling_top_p": 0.5}]
    requests = []
    for sample, way in enumerate(ways):
        requests.append(Request(PROMPT, 25, **{"temperature": 1.2, "sample": sample, **way}))
    made = generate_together(target, load("recycling"), requests)
    assert [m.output_ids for m in made] == of_vanilla(target, load, requests)


def test_rejection_sampling_is_each_texts_own(target, load):
    """Not vanilla's tokens, but those of the same text alone."""
    options = {"sps_mode": "rejection", "sps_confidence": 0.0, "sps_tokens": 4}
    requests = [Request(PROMPT, 25, 1.0, sample=sample) for sample in range(3)]
    alone = [generate(target, load("sps", **options), r).output_ids for r in requests]
    made = generate_together(target, load("sps", **options), requests)
    assert [m.output_ids for m in made] == alone
    assert alone != of_vanilla(target, load, requests)


@st.composite
def drafts_with_chances(draw):
    drafts = []
    for _ in range(draw(st.integers(1, 5))):
        parents, chances = [], []
        for node in range(draw(st.integers(0, 12))):
            parent = draw(st.integers(0, node))
            above = chances[parent - 1] if parent else 1.0
            parents.append(parent)
            chances.append(above * draw(st.sampled_from((0.1, 0.5, 0.9, 1.0))))
        drafts.append(Draft.tree(0, list(range(100, 100 + len(parents))), parents, "x", chances))
        if draw(st.booleans()):
            chain = list(accumulate([0.9] * len(parents), mul))
            drafts[-1] = Draft.chain(0, list(range(len(parents))), "x", chances=chain)
    return drafts


@given(drafts_with_chances(), st.integers(1, 40))
def test_the_likeliest_nodes_of_all_texts_get_the_rows(drafts, max_rows):
    kept = likeliest(drafts, max_rows)
    offered = sum(len(draft.tokens) for draft in drafts)
    assert sum(len(draft.tokens) for draft in kept) == min(offered, max(max_rows, len(drafts)))
    left = []
    for before, after in zip(drafts, kept, strict=True):
        after.validate(100, 1000)
        assert {path for path, _ in paths(after)} <= {path for path, _ in paths(before)}
        left += [chance for path, chance in paths(before) if path not in dict(paths(after))]
    taken = [chance for draft in kept for chance in draft.chances]
    assert not left or not taken or max(left) <= min(taken)


def paths(draft):
    """Every node below the root as the tokens on its way, with its chance."""
    found = [()]
    for node in range(1, len(draft.tokens)):
        found.append((*found[draft.parents[node]], draft.tokens[node]))
    return list(zip(found[1:], draft.chances, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_with_few_rows_the_texts_stay_the_same(method, target, load, forwards):
    requests = [dataclasses.replace(r, max_new_tokens=25) for r in mixed(3, 0.6, seed=9)]
    expected = of_vanilla(target, load, requests)
    forwards.clear()
    made = generate_together(target, load(method), requests, max_rows=9)
    prompts = len({tuple(r.prompt_ids) for r in requests})
    assert max(sum(rows) for rows in forwards[prompts:]) <= 9
    assert [m.output_ids for m in made] == expected


def test_a_cpu_replays_one_graph_for_any_number_of_segments(load):
    target = Model(qwen3(), engine="torchscript")
    for count in (2, 3, 5):
        generate_together(target, load("pld"), mixed(count, 0.6, seed=count))
    assert isinstance(target.backend, TorchScript)
    several = [graph for key, graph in target.backend._graphs.items() if not key.is_single]
    assert len(several) == 1 and several[0] is not None


@pytest.mark.parametrize("slots", ((0, 1, 2, 3), (1, 2), (3, 0, 2), (0, 2, 1, 3), (0, 3)))
def test_segments_of_any_slots_and_lengths_are_the_eager_forwards(slots):
    models = [Model(qwen3(), engine=engine) for engine in ("torchscript", "eager")]
    random, logits, caches = Random(7), [], []
    work = []
    for slot in slots:
        start, rows = random.randrange(1, 60), random.randrange(1, 7)
        mask = torch.rand(rows, rows) < 0.5
        mask |= torch.eye(rows, dtype=torch.bool)
        tokens = [random.randrange(VOCAB) for _ in range(start + rows)]
        new = Segment(slot, start, tokens[start:], range(start, start + rows), mask)
        work.append((Segment.causal(slot, 0, tokens[:start]), new))
    for model in models:
        model.reserve(80, 4)
        for text, _ in work:
            model.forward([text])
        output = model.forward([new for _, new in work], Wanted(is_step=True))
        logits.append(output.logits.clone())
        caches.append(model.cache.data)
    assert models[0].backend.recorded == 2  # a text's, and one for any number of segments
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(caches[0], caches[1], atol=1e-4, rtol=1e-4)


def test_the_shares_of_a_group_add_up(target, load):
    made = generate_together(target, load("pld"), mixed(4, 0.6, seed=4))
    assert len({m.times.wall for m in made}) == 1
    assert max(m.latency for m in made) <= 4 * made[0].times.wall
    (alone,) = generate_together(target, load("pld"), mixed(1, 0.6, seed=4))
    assert alone.batch == 1 and alone.latency <= alone.times.wall


def test_a_request_that_does_not_fit_is_refused_before_anything_runs(target, load):
    requests = [Request(PROMPT, 5), Request(PROMPT, target.max_positions)]
    with pytest.raises(UserError, match="exceed the model's context"):
        generate_together(target, load("vanilla"), requests)


class Seen(Drafter):
    """Notes what its sessions are told."""

    def __init__(self):
        self.told = []

    def start(self, request, prefill):
        self.request = request

    def observe(self, out):
        self.told.append((self.request.sample, out.emitted))

    def finish(self, request, output_ids):
        self.told.append((request.sample, "end"))


def test_every_session_is_told_of_its_own_text(target):
    drafter = Seen()
    made = generate_together(target, drafter, [Request(PROMPT, n + 2, sample=n) for n in range(3)])
    for sample, generation in enumerate(made):
        own = [what for which, what in drafter.told if which == sample]
        assert own[-1] == "end"
        assert generation.output_ids[1:] == [token for emitted in own[:-1] for token in emitted]


def test_features_are_each_texts_own(target, load):
    """EAGLE-3 drafts the same alone and together: it is fed the features of its own rows."""
    requests = [dataclasses.replace(r, max_new_tokens=20) for r in mixed(3, 0.6, seed=5)]
    alone = [generate(target, load("eagle3"), r).accept_lengths for r in requests]
    with torch.inference_mode():
        together = generate_together(target, load("eagle3"), requests)
    assert [m.accept_lengths for m in together] == alone


def test_sessions_of_eagle3_share_what_is_allocated_and_said_once(
    target, load, monkeypatch, capsys
):
    made = []
    real = eagle3.DraftState

    def counted(*args):
        made.append(args)
        return real(*args)

    monkeypatch.setattr(eagle3, "DraftState", counted)
    drafter = load("eagle3")
    drafter.head.config = dataclasses.replace(drafter.head.config, trained_length=10)
    for _ in range(2):
        generate_together(target, drafter, mixed(3, 0.6, seed=6))
    assert len(made) == 3
    assert capsys.readouterr().err.count("was trained on 10 tokens") == 1


def test_the_head_runs_once_a_level_for_all_texts(target, load, monkeypatch):
    """A catch-up and each level below the first, whatever the number of texts."""
    batches = []
    real = tree.layer

    def counted(batch, **how):
        batches.append([len(rows) for rows in batch])
        return real(batch, **how)

    monkeypatch.setattr(tree, "layer", counted)
    drafter = load("eagle3", eagle_depth=3, eagle_top_k=2)
    requests = [Request(PROMPT, 30, sample=sample) for sample in range(4)]
    made = generate_together(target, drafter, requests)
    steps = max(len(m.accept_lengths) for m in made)
    assert len(batches) <= 4 * steps  # one by one there would be four times as many
    assert batches[:4] == [[len(PROMPT)] * 4, [2] * 4, [2] * 4, [2] * 4]


def test_the_draft_model_runs_once_a_token_for_all_texts(target, load):
    drafter = load("sps", sps_tokens=4, sps_confidence=0.0)
    forwards = []
    model = drafter.draft_model.model
    real = model.forward

    def counted(segments, *rest):
        forwards.append(len(segments))
        return real(segments, *rest)

    model.forward = counted
    requests = mixed(4, 0.6, seed=8)
    requests = [dataclasses.replace(r, max_new_tokens=30, stop_ids=frozenset()) for r in requests]
    generate_together(target, drafter, requests)
    assert forwards.index(4) == 4  # the prompts come one by one
    assert forwards.count(4) > 3 * 5


def test_drafts_side_by_side_are_those_one_by_one():
    """Any mix of lengths and kinds; each forward is run by its own kind's function."""
    runs = []

    def run(inputs):
        runs.append(sorted(inputs))
        return [value * 10 for value in inputs]

    def drafting(number, forwards):
        found = []
        for step in range(forwards):
            kind = number % 2
            found.append((yield DraftForward(10 * number + step, run, kind)))
        return found

    lengths = (3, 0, 1, 5, 2)
    together = drafted([drafting(n, length) for n, length in enumerate(lengths)])
    assert together == [drafted([drafting(n, length)])[0] for n, length in enumerate(lengths)]
    assert together[3] == [300, 310, 320, 330, 340] and together[1] == []
    assert runs[:2] == [[0, 20, 40], [30]]
