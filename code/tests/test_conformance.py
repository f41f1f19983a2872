"""Every drafter there is emits vanilla's exact tokens, keeps to its limits, forgets what it must,
and stays small.
"""

import dataclasses

import pytest
import torch

from model.contract import Context, Draft, Drafter, Forcing, Needs, Request
from model.engine.decode import Member, generate, prefill
from model.engine.noise import PositionNoise
from model.engine.sequence import Sequence
from model.engine.verify import verify
from tests.conftest import METHODS, PROMPT, VOCAB

TEMPERATURES = (0.0, 0.6, 1.0)


def request(**changes) -> Request:
    return dataclasses.replace(Request(PROMPT, 40, question_id="q"), **changes)


@pytest.fixture(scope="module")
def vanilla(target, load):
    """The reference text of a request, made once."""
    drafter, made = load("vanilla"), {}

    def text(r):
        key = repr(r)
        if key not in made:
            made[key] = generate(target, drafter, r)
        return made[key]

    return text


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("method", METHODS)
def test_emits_vanillas_tokens_over_samples_rounds_and_scopes(
    method, temperature, target, load, vanilla
):
    for scope in ("request", "question", "run"):
        drafter = load(method)
        drafter.remember(scope)
        drafter.enter("run", "r")
        for question in ("a", "b"):
            drafter.enter("question", question)
            for sample in range(2):
                r = request(temperature=temperature, question_id=question, sample=sample, seed=3)
                drafter.enter("request", f"{question}{sample}")
                result = generate(target, drafter, r)
                assert result.output_ids == vanilla(r).output_ids
                assert sum(result.accept_lengths) == len(result.output_ids) - 1


@pytest.mark.parametrize("method", METHODS)
def test_stop_ids_limits_and_forcing_cut_exactly(method, target, load, vanilla):
    free = vanilla(request(temperature=1.0)).output_ids
    cases = [request(temperature=1.0, max_new_tokens=n) for n in (1, 2, 7, 23)]
    cases += [request(temperature=1.0, stop_ids=frozenset({free[i]})) for i in (0, 1, 5, 30)]
    cases += [
        request(temperature=t, forcing=Forcing(9, (40, 41, 42, 43), 42)) for t in TEMPERATURES
    ]
    cases += [
        request(temperature=1.0, forcing=Forcing(9, (40, free[12], 42), 42), max_new_tokens=11)
    ]
    for case in cases:
        drafter = load(method)
        drafter.enter("question", "q")
        found, expected = generate(target, drafter, case), vanilla(case)
        assert (found.output_ids, found.finish_reason, found.forced_tokens) == (
            expected.output_ids,
            expected.finish_reason,
            expected.forced_tokens,
        )


@pytest.mark.parametrize("cap", (1, 2, 5, 9))
@pytest.mark.parametrize("method", METHODS)
def test_no_draft_is_larger_than_allowed(method, cap, target, load, vanilla):
    drafter = load(method)
    drafter.enter("question", "q")
    for sample in range(2):
        r = request(temperature=0.6, sample=sample)
        result = generate(target, drafter, r, max_nodes=cap)
        assert max(result.draft_lengths, default=0) < cap
        assert result.output_ids == vanilla(r).output_ids


@pytest.mark.parametrize("method", METHODS)
def test_after_a_full_clearing_it_behaves_as_new(method, target, load):
    used, fresh = load(method), load(method)
    used.enter("run", "warm-up")
    used.enter("question", "w")
    generate(target, used, request(temperature=1.0, seed=9, question_id="w"))
    for drafter in (used, fresh):
        drafter.enter("run", "r")
        drafter.enter("question", "q")
        drafter.enter("request", "q0")
    a, b = (generate(target, d, request()) for d in (used, fresh))
    assert (a.accept_lengths, a.draft_lengths, a.sources) == (
        b.accept_lengths,
        b.draft_lengths,
        b.sources,
    )


@pytest.mark.parametrize("method", METHODS)
def test_kept_cache_equals_a_fresh_prefill_after_every_step(method, target, load):
    drafter = load(method)
    r = request(temperature=0.6, max_new_tokens=25)
    target.reserve(400, slots=2)
    sequence = Sequence(r)
    (first,) = prefill(target, [Member(drafter, sequence)])
    drafter.enter("question", "q")
    drafter.start(r, first)
    while not sequence.emission.finished:
        emitted = len(sequence.ids)
        proposed = drafter.propose(
            Context(
                sequence.ids[-1],
                sequence.cached,
                emitted,
                25 - emitted,
                drafter.needs.max_nodes,
                r,
                PositionNoise.of(r),
            )
        )
        out = verify(target, [(sequence, proposed)], drafter.needs).outs[0]
        drafter.observe(out)
        other = Sequence(
            dataclasses.replace(r, prompt_ids=(PROMPT + sequence.ids)[: sequence.cached]), slot=1
        )
        prefill(target, [Member(load("vanilla"), other)])
        kept, fresh = (target.cache.data[:, :, slot, : sequence.cached] for slot in (0, 1))
        torch.testing.assert_close(kept, fresh, atol=1e-5, rtol=1e-4)


class Scripted(Drafter):
    """A drafter that proposes whatever it is told to: what the engine must withstand."""

    def __init__(self, propose, max_nodes=40):
        self.needs, self._propose = Needs(max_nodes=max_nodes), propose

    def start(self, request, prefill): ...

    def propose(self, context):
        return self._propose(context)

    def observe(self, out): ...

    def finish(self, request, output_ids): ...


def random_tree(context: Context) -> Draft:
    generator = torch.Generator().manual_seed(context.emitted)
    parents, tokens, seen = [-1], [context.root], set()
    for _ in range(20):
        parent, token = (
            int(torch.randint(high, (1,), generator=generator)) for high in (len(tokens), VOCAB)
        )
        if (parent, token) not in seen:
            seen.add((parent, token))
            parents.append(parent)
            tokens.append(token)
    return Draft(tokens, parents, len(tokens), "random")


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_adversarial_oracle_and_over_long_drafts(temperature, target, vanilla):
    r = request(temperature=temperature)
    text = vanilla(r).output_ids

    def oracle(context: Context) -> Draft:
        return Draft.chain(context.root, text[context.emitted : context.emitted + 12], "oracle")

    def over_long(context: Context) -> Draft:
        return Draft.chain(
            context.root, (text + [0] * 40)[context.emitted : context.emitted + 39], "long"
        )

    def wrong(context: Context) -> Draft:
        return Draft.chain(
            context.root,
            [(t + 1) % VOCAB for t in text[context.emitted : context.emitted + 8]],
            "wrong",
        )

    def tree_with_the_truth_last(context: Context) -> Draft:
        true = ([*text, 0, 0])[context.emitted : context.emitted + 2]
        decoys = [t for t in range(10) if t != true[0]]
        n = len(decoys)
        return Draft([context.root, *decoys, *true], [-1, *[0] * n, 0, n + 1], n + 3, "tree")

    lengths = {}
    for propose in (random_tree, oracle, over_long, wrong, tree_with_the_truth_last):
        result = generate(target, Scripted(propose), r)
        assert result.output_ids == text
        lengths[propose.__name__] = result.accept_lengths
    assert max(lengths["oracle"]) == 13 and sum(lengths["oracle"]) == len(text) - 1
    assert set(lengths["wrong"]) == {1}
    assert lengths["tree_with_the_truth_last"][0] == 3


def test_drafts_past_a_stop_id_are_cut(target, vanilla):
    free = vanilla(request(temperature=1.0)).output_ids
    r = request(temperature=1.0, stop_ids=frozenset({free[6]}))
    stop = free.index(free[6]) + 1
    past = Scripted(
        lambda c: Draft.chain(c.root, (free + free)[c.emitted : c.emitted + 20], "past")
    )
    result = generate(target, past, r)
    assert result.output_ids == free[:stop] and result.finish_reason == "stop"


@pytest.mark.parametrize(
    "broken",
    [
        Draft([1, 2, 3], [-1, 0, 2], 3),
        Draft([1, 2, 2], [-1, 0, 0], 3),
        Draft([1, VOCAB], [-1, 0], 2),
        Draft([1, -1], [-1, 0], 2),
        Draft(list(range(41)), range(-1, 40), 41),
    ],
)
def test_a_draft_that_breaks_the_contract_is_refused(broken, target):
    with pytest.raises(ValueError):
        broken.validate(40, VOCAB)
