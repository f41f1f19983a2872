"""The noise, the target's own tokens and speculative rejection sampling, against exact
probabilities.

Statistical tests use fixed seeds, so they do not flicker; a right rule would fail them once in a
thousand seeds, the wrong rules beside them fail by far."""

import dataclasses
import itertools
from collections import Counter

import pytest
import torch
from scipy import stats

from model.contract import Draft, Request
from model.engine.noise import PositionNoise
from model.engine.sampling import (
    noisy_argmax,
    processed,
    rejection_tokens,
    target_tokens,
)

V = 5


def noise_of(seed: int) -> PositionNoise:
    return PositionNoise.of(Request([0], 1, seed=seed))


def p_value(counts: Counter, expected: dict, total: int) -> float:
    """Chi-square of observed counts against probabilities; cells expected below 5 are merged."""
    large = {k: p for k, p in expected.items() if p * total >= 5}
    observed = [counts[k] for k in large]
    wanted = [p * total for p in large.values()]
    rest = total - sum(wanted)
    if rest > 1e-3 * total:
        observed.append(total - sum(observed))
        wanted.append(rest)
    wanted = [w * sum(observed) / sum(wanted) for w in wanted]
    return stats.chisquare(observed, wanted).pvalue


def test_noise_is_a_function_of_request_position_and_token():
    a = noise_of(1).exponential([3, 4], 50, torch.device("cpu"))
    again = noise_of(1).exponential([4], 20, torch.device("cpu"))
    assert torch.equal(a[1, :20], again[0])
    changed = [Request([0], 1, **{field: 1}) for field in ("seed", "choice", "sample", "round")]
    changed.append(Request([0], 1, question_id="1"))
    keys = {PositionNoise.of(r).key for r in [Request([0], 1), *changed]}
    assert len(keys) == len(changed) + 1


def test_noise_is_exponential_and_uncorrelated():
    e = noise_of(7).exponential(list(range(200)), 500, torch.device("cpu"))
    assert stats.kstest(e.flatten()[::10].numpy(), "expon").pvalue > 1e-3
    for a, b in ((e[1:], e[:-1]), (e[:, 1:], e[:, :-1])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.01
    streams = [
        noise_of(7).exponential([0], 5000, torch.device("cpu"), stream=s)[0] for s in range(3)
    ]
    assert abs(torch.corrcoef(torch.stack(streams)).triu(1)).max() < 0.05


def test_gumbel_max_draws_from_the_processed_distribution():
    logits = torch.tensor([[1.0, 0.2, -0.5, 2.0, 0.0]])
    for request in (
        Request([0], 1, 1.0),
        Request([0], 1, 0.6),
        Request([0], 1, 1.0, sampling_top_k=3),
        Request([0], 1, 1.0, sampling_top_p=0.8),
    ):
        wanted = dict(enumerate(processed(logits, request).softmax(-1)[0].tolist()))
        draws = Counter(
            int(target_tokens(logits, [0], 0, dataclasses.replace(request, seed=s), noise_of(s))[0])
            for s in range(4000)
        )
        assert p_value(draws, {k: p for k, p in wanted.items() if p > 0}, 4000) > 1e-3
        assert all(wanted[token] > 0 for token in draws)


def test_top_p_keeps_the_smallest_nucleus():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = processed(logits, Request([0], 1, 1.0, sampling_top_p=0.7)).isfinite()[0].tolist()
    assert kept == [True, True, False, False]


def test_nodes_of_equal_depth_share_noise():
    logits = torch.zeros(3, V)
    tokens = target_tokens(logits, [0, 1, 1], 4, Request([0], 9, 1.0), noise_of(1))
    assert tokens[1] == tokens[2]
    assert int(tokens[1]) == int(
        target_tokens(logits[:1], [0], 5, Request([0], 9, 1.0), noise_of(1))[0]
    )


class Toy:
    """Target and drafter distributions over V tokens that depend on the token before."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.p = torch.randn(V, V, generator=generator).softmax(-1)
        self.q = (self.p.log() + 0.8 * torch.randn(V, V, generator=generator)).softmax(-1)

    def sequences(self, length: int) -> dict[tuple[int, ...], float]:
        """Exact probability of every sequence after token 0."""
        found = {}
        for s in itertools.product(range(V), repeat=length):
            probability, before = 1.0, 0
            for token in s:
                probability *= float(self.p[before, token])
                before = token
            found[s] = probability
        return found

    def run(self, seed: int, length: int, chain: int, rule) -> tuple[tuple[int, ...], int]:
        """(emitted tokens, accepted in the first step), `chain` tokens drafted from q."""
        noise, out, first = noise_of(seed), [0], 0
        while len(out) <= length:
            drawn, before = [], out[-1]
            for i in range(chain):
                e = noise.exponential([len(out) - 1 + i], V, torch.device("cpu"), stream=2)
                before = int(noisy_argmax(self.q[before].log()[None], e)[0])
                drawn.append(before)
            tokens = [out[-1], *drawn]
            draft = Draft.chain(
                tokens[0], drawn, "toy", probabilities=self.q[torch.tensor(tokens[:-1])]
            )
            own = rule(self.p[torch.tensor(tokens)].log(), draft, len(out) - 1, noise)
            step = []
            for i, token in enumerate(own):
                step.append(token)
                if i == chain or token != drawn[i]:
                    break
            first = first or len(step)
            out += step
        return tuple(out[1 : length + 1]), first - 1


def right(logits, draft, first, noise):
    return rejection_tokens(logits, draft, first, Request([0], 9, 1.0), noise).tolist()


def resampled_from_p(logits, draft, first, noise):
    """Wrong: after a rejection the target's distribution itself is sampled, not the residual."""
    tokens = right(logits, draft, first, noise)
    fresh = noisy_argmax(
        logits, noise.exponential(list(range(first, first + len(tokens))), V, torch.device("cpu"))
    )
    return [
        t if i + 1 < len(tokens) and t == draft.tokens[i + 1] else int(fresh[i])
        for i, t in enumerate(tokens)
    ]


def accepted_by_p(logits, draft, first, noise):
    """Wrong: a sampled token is accepted with probability p instead of p / q."""
    p = logits.exp()
    own = rejection_tokens(
        logits,
        dataclasses.replace(draft, probabilities=torch.ones_like(draft.probabilities)),
        first,
        Request([0], 9, 1.0),
        noise,
    )
    fresh = noisy_argmax(
        logits,
        noise.exponential(list(range(first, first + len(p))), V, torch.device("cpu"), stream=3),
    )
    return [
        int(t) if i + 1 < len(p) and int(t) == draft.tokens[i + 1] else int(fresh[i])
        for i, t in enumerate(own)
    ]


@pytest.mark.parametrize(
    "rule, correct", [(right, True), (resampled_from_p, False), (accepted_by_p, False)]
)
def test_rejection_sampling_over_whole_sequences(rule, correct):
    toy, runs, length = Toy(), 6000, 3
    draws = Counter(toy.run(seed, length, 2, rule)[0] for seed in range(runs))
    value = p_value(draws, toy.sequences(length), runs)
    assert value > 1e-3 if correct else value < 1e-6


def test_acceptance_rate_is_the_overlap():
    toy, runs = Toy(), 4000
    accepted = sum(toy.run(seed, 1, 1, right)[1] for seed in range(runs)) / runs
    overlap = float(torch.minimum(toy.p[0], toy.q[0]).sum())
    assert abs(accepted - overlap) < 4 * (overlap * (1 - overlap) / runs) ** 0.5


def test_coupled_drafts_are_accepted_more_often_than_their_bound():
    """Equal noise on both sides: acceptance is at least (1 - TV) / (1 + TV)."""
    toy, runs = Toy(), 3000
    same = 0
    for seed in range(runs):
        e = noise_of(seed).exponential([0], V, torch.device("cpu"))
        same += int(noisy_argmax(toy.p[:1].log(), e)[0]) == int(noisy_argmax(toy.q[:1].log(), e)[0])
    distance = float((toy.p[0] - toy.q[0]).abs().sum() / 2)
    assert same / runs > (1 - distance) / (1 + distance) - 0.03
