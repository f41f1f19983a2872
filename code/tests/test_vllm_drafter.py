"""Our drafters as vLLM calls them: rows that move, no names, the texts known in advance."""

from types import SimpleNamespace

import numpy as np
import pytest

from model import methods
from model.contract import Request
from model.engine.decode import generate
from model.errors import UserError
from model.vllm_drafter import MOST_UNSEEN, Drafters, first_children
from tests.conftest import PROMPT

TOKENS, LONGEST = 5, 400


def drafters(monkeypatch, method: str) -> Drafters:
    monkeypatch.setenv("SPECTTS_DRAFTER", method)
    config = SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=TOKENS),
        model_config=SimpleNamespace(max_model_len=LONGEST),
    )
    made = Drafters(config)
    made.load_model(object())
    return made


def served(drafters: Drafters, prompts, texts, seed=0) -> list[list[int]]:
    """What an engine does: verify each row's chain against its text; emitted tokens a step.

    The first token comes from the prefill. Rows change places; a row without new tokens is a
    request whose prompt is still being computed.
    """
    rng = np.random.default_rng(seed)
    steps: list[list[int]] = [[] for _ in texts]
    done = [0] * len(texts)
    new = [1] * len(texts)
    while any(n < len(text) for n, text in zip(done, texts)):
        order = [i for i in rng.permutation(len(texts)) if done[i] < len(texts[i])]
        table = np.zeros((len(order), LONGEST), dtype=np.int32)
        lengths = np.zeros(len(order), dtype=np.int32)
        sampled = []
        waits = rng.random(len(order)) < 0.1
        for row, i in enumerate(order):
            if waits[row] and not done[i]:
                sampled.append([])
                continue
            emitted = texts[i][: done[i] + new[i]]
            ids = [*prompts[i], *emitted]
            table[row, : len(ids)], lengths[row] = ids, len(ids)
            sampled.append(emitted[done[i] :])
        proposals = drafters.propose(sampled, lengths, table, slot_mappings=None)
        assert len(proposals) == len(order)
        for row, i in enumerate(order):
            if not sampled[row]:
                assert proposals[row] == []
                continue
            assert len(proposals[row]) <= TOKENS
            done[i] += new[i]
            rest = texts[i][done[i] :]
            accepted = 0
            while accepted < min(len(proposals[row]), len(rest) - 1):
                if proposals[row][accepted] != rest[accepted]:
                    break
                accepted += 1
            new[i] = accepted + 1
            if rest:
                steps[i].append(new[i])
    return steps


@pytest.mark.parametrize("method", ("pld", "sam", "suffix", "pia"))
def test_one_request_is_drafted_for_as_in_our_own_engine(method, monkeypatch, target):
    request = Request(PROMPT, 60)
    own = generate(target, methods.load(method, target), request, max_nodes=TOKENS + 1)
    steps = served(drafters(monkeypatch, method), [PROMPT], [own.output_ids])
    if method == "pia":  # it drafts trees, of which a chain is proposed
        assert sum(steps[0]) == sum(own.accept_lengths)
        return
    assert steps == [own.accept_lengths]


@pytest.mark.parametrize("method", ("pld", "sam", "blend"))
def test_requests_are_told_apart_though_their_rows_move(method, monkeypatch, target):
    """Samples of one question, whose texts begin alike, and others."""
    prompts = [PROMPT, PROMPT, PROMPT, PROMPT[:7], [3, 1, 4, 1, 5]]
    vanilla = methods.load("vanilla", target)
    texts = []
    for sample, prompt in enumerate(prompts):
        request = Request(list(prompt), 30 + sample, 0.7, sample=sample)
        texts.append(generate(target, vanilla, request).output_ids)
    made = drafters(monkeypatch, method)
    for seed in range(3):
        steps = served(made, prompts, texts, seed)
        assert [sum(s) for s in steps] == [len(text) - 1 for text in texts]
    assert sum(map(len, steps)) < sum(len(text) - 1 for text in texts)
    assert len(made._under_way) <= 3 * len(texts)


@pytest.mark.parametrize(
    ("method", "said"),
    (
        ("", "SPECTTS_DRAFTER"),
        ("eagle3", "cannot draft inside vLLM"),
        ("recycling", "likeliest tokens"),
        ("nothing", "unknown method"),
    ),
)
def test_what_cannot_draft_there_is_refused(method, said, monkeypatch):
    with pytest.raises(UserError, match=said):
        drafters(monkeypatch, method)


def test_a_trees_chain_is_the_path_of_first_children():
    draft = SimpleNamespace(candidates=6, parents=[-1, 0, 0, 1, 1, 3], tokens=[9, 1, 2, 3, 4, 5])
    assert first_children(draft) == [1, 3, 5]


def step(drafters: Drafters, rows: list[tuple[list[int], int]]) -> None:
    """One call: each row's whole text, and how many of its tokens are new."""
    table = np.zeros((len(rows), LONGEST), dtype=np.int32)
    for row, (ids, _) in enumerate(rows):
        table[row, : len(ids)] = ids
    lengths = np.array([len(ids) for ids, _ in rows], dtype=np.int32)
    drafters.propose([ids[-new:] for ids, new in rows], lengths, table)


def test_of_equal_texts_at_different_places_each_keeps_its_own(monkeypatch):
    """The first row's text has just become the beginning of the second's."""
    made = drafters(monkeypatch, "pld")
    text = list(range(10, 30))
    step(made, [(text[:4], 1), (text[:6], 1)])
    step(made, [(text[:7], 3), (text[:9], 3)])
    assert sorted(len(request.ids) for request in made._under_way) == [7, 9]


def test_a_request_that_is_over_is_finished_with_its_tokens(monkeypatch):
    made, finished = drafters(monkeypatch, "pld"), []
    text = list(range(10, 30))
    step(made, [(text[:4], 1)])
    (request,) = made._under_way
    monkeypatch.setattr(request.drafter, "finish", lambda _, ids: finished.append(ids))
    step(made, [(text[:6], 2)])
    for _ in range(MOST_UNSEEN):
        step(made, [([1, 2, 3], 1)])
    assert finished == [text[3:6]] and request not in made._under_way
