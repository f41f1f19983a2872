"""Does a server keep its word? Speculation must change no text and no distribution.

Every check asks two sources (a server with speculation and one without, or our own engine on the
same checkpoint), or one twice, and yields one finding.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import mean
from typing import Any, Protocol

import numpy as np
from scipy import stats

from evaluation.paradigms import user
from evaluation.serving.client import Client, Reply
from evaluation.serving.engines import Engine
from evaluation.serving.server import BadRequest, Service
from evaluation.tasks import Question
from model.errors import UserError

KEEPS, BREAKS, UNKNOWN = "keeps its word", "BREAKS IT", "cannot be said"
LEVEL = 0.001
"""A p-value below it breaks: of a thousand honest servers one is accused."""
RESAMPLES = 9999
FIRST_TOKENS = 16
"""Of these as many are compared as leave few enough different beginnings to count."""
PER_BEGINNING = 4
"""Seeds, on average, of every beginning that is counted."""
SEEDS_PER_QUESTION = 4
LOGPROBS = 2


@dataclass(frozen=True)
class Ask:
    """One request of the audit."""

    text: str
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int = 200
    top_logprobs: int = 0


@dataclass(frozen=True)
class Finding:
    """One line of the audit."""

    check: str
    verdict: str
    detail: str


class Source(Protocol):
    """Who is asked."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def ask(self, ask: Ask) -> Reply:
        """Raises UserError where no whole reply comes."""
        ...


@dataclass(frozen=True)
class ServerSource:
    """A server, asked with so many requests in flight."""

    client: Client
    engine: Engine
    model: str

    @property
    def name(self) -> str:
        return f"{self.engine.name} at {self.client.base_url}"

    def ask(self, ask: Ask) -> Reply:
        try:
            return self.client.chat(self.engine.asked(body_of(ask, self.model)))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.name}: {error}") from None


@dataclass(frozen=True)
class Reference:
    """Our own engine on a checkpoint, without speculation."""

    service: Service

    @property
    def name(self) -> str:
        return f"our engine, {self.service.name}"

    def ask(self, ask: Ask) -> Reply:
        try:
            asked = self.service.asked(body_of(ask, self.service.name), is_chat=True)
        except BadRequest as error:
            raise UserError(str(error)) from None
        generation, logprobs = self.service.generate(asked)
        reply = Reply(
            text=self.service.text(generation.output_ids),
            finish_reason=generation.finish_reason,
            new_tokens=len(generation.output_ids),
            token_ids=generation.output_ids,
        )
        if logprobs:
            reply.top_logprobs = [[], *([p for _, p in top] for top in logprobs.likeliest)]
        return reply


def body_of(ask: Ask, model: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [user(ask.text)],
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "top_p": 1.0,
        "seed": ask.seed,
    }
    if ask.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": ask.top_logprobs}
    return body


@dataclass(frozen=True)
class Parting:
    """Where two replies part, and how near the two best tokens were there."""

    position: int
    margin: float | None
    """In nats; None where no log-probabilities are offered."""


def parting(reply: Reply, expected: Reply) -> Parting | None:
    """None where the two are equal: tokens where both tell them, else characters."""
    if reply.token_ids and expected.token_ids:
        position = _first_difference(reply.token_ids, expected.token_ids)
        if position is None:
            return None
        told = expected.top_logprobs
        likeliest = told[position] if position < len(told) else []
        margin = likeliest[0] - likeliest[1] if len(likeliest) > 1 else None
        return Parting(position, margin)
    position = _first_difference(reply.text, expected.text)
    return None if position is None else Parting(position, None)


def _first_difference(a: Sequence[object], b: Sequence[object]) -> int | None:
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return None if len(a) == len(b) else min(len(a), len(b))


@dataclass(frozen=True)
class Audit:
    """The checks of one source against another."""

    source: Source
    against: Source
    questions: Sequence[Question]
    temperature: float
    max_tokens: int
    seeds: int
    tie: float
    concurrency: int = 1
    is_right: Callable[[Question, str], bool | None] = lambda question, text: None
    """Grades an answer; None where it cannot."""
    on_reply: Callable[[], object] = lambda: None

    def findings(self) -> list[Finding]:
        """Every check, in order."""
        return [
            self.repeats(),
            self.greedy(),
            self.seeds_are_honoured(),
            self.first_tokens(),
            *self.samples(),
        ]

    @property
    def requests(self) -> int:
        """How many the checks send, unless seeds are found to change nothing."""
        questions = len(self.questions)
        greedy, seeded = 4 * questions, 2 * SEEDS_PER_QUESTION * questions
        return greedy + seeded + 2 * self.seeds + 2 * questions * self._samples_per_question

    @property
    def _samples_per_question(self) -> int:
        return max(1, self.seeds // (4 * len(self.questions)))

    def _asked(self, source: Source, asks: Sequence[Ask]) -> list[Reply]:
        replies = []
        with ThreadPoolExecutor(self.concurrency) as threads:
            for reply in threads.map(source.ask, asks):
                replies.append(reply)
                self.on_reply()
        return replies

    def _greedy_asks(self, top_logprobs: int = 0) -> list[Ask]:
        asks = []
        for question in self.questions:
            ask = Ask(question.text, max_tokens=self.max_tokens, top_logprobs=top_logprobs)
            asks.append(ask)
        return asks

    def repeats(self) -> Finding:
        """The same greedy request twice."""
        asks = self._greedy_asks()
        first, second = (self._asked(self.source, asks) for _ in range(2))
        parted = [p for p in map(parting, first, second) if p]
        detail = f"{len(asks) - len(parted)} of {len(asks)} greedy texts repeat"
        return Finding("the same request twice", BREAKS if parted else KEEPS, detail)

    def greedy(self) -> Finding:
        """Greedy texts of both; those that part must do so at a tie."""
        replies = self._asked(self.source, self._greedy_asks())
        expected = self._asked(self.against, self._greedy_asks(LOGPROBS))
        check = f"greedy texts are those of {self.against.name}"
        parted = [p for p in map(parting, replies, expected) if p]
        equal = len(replies) - len(parted)
        detail = f"{equal} of {len(replies)} equal"
        if not parted:
            return Finding(check, KEEPS, detail)
        worst = max(parted, key=lambda p: p.margin or 0.0)
        first = min(parted, key=lambda p: p.position)
        detail += f"; the first parts at token {first.position}"
        if any(p.margin is None for p in parted):
            return Finding(check, UNKNOWN, f"{detail}; no log-probabilities tell whether at a tie")
        detail += f"; widest margin {worst.margin:.4f} nats at token {worst.position}"
        is_tie = (worst.margin or 0.0) <= self.tie
        return Finding(check, KEEPS if is_tie else BREAKS, detail + (", a tie" if is_tie else ""))

    def seeds_are_honoured(self) -> Finding:
        """Equal seeds, equal texts; different seeds, different ones."""
        asks = []
        for question in self.questions:
            for seed in range(SEEDS_PER_QUESTION):
                asks.append(Ask(question.text, seed, self.temperature, self.max_tokens))
        first, second = (self._asked(self.source, asks) for _ in range(2))
        repeated = sum(parting(a, b) is None for a, b in zip(first, second, strict=True))
        detail = f"{repeated} of {len(asks)} seeded texts repeat"
        if repeated < len(asks):
            return Finding("seeds", BREAKS, detail)
        if _texts(first) > len(self.questions):
            return Finding("seeds", KEEPS, f"{detail}, {_texts(first)} are different")
        if _texts(self._asked(self.against, asks)) == len(self.questions):
            detail += "; no seed changes a text of either: raise --temperature"
            return Finding("seeds", UNKNOWN, detail)
        return Finding("seeds", BREAKS, f"{detail}; different seeds give the same text")

    def first_tokens(self) -> Finding:
        """The first tokens over many seeds: one distribution?"""
        question = self.questions[0]
        asks = []
        for seed in range(self.seeds):
            asks.append(Ask(question.text, seed, self.temperature, FIRST_TOKENS))
        replies, expected = (self._asked(source, asks) for source in (self.source, self.against))
        tokens = countable([*replies, *expected])
        counts, expected_counts = (
            Counter(_beginning(reply, tokens) for reply in of_source)
            for of_source in (replies, expected)
        )
        check = f"distribution of the first {tokens} tokens at T = {self.temperature:g}"
        if len(counts | expected_counts) == 1:
            return Finding(check, UNKNOWN, "all begin alike: raise --temperature")
        p, distance = same_distribution(counts, expected_counts)
        detail = (
            f"{self.seeds} seeds each, {len(counts | expected_counts)} beginnings: total variation"
            f" {distance:.3f}, p = {p:.4f} (chi-squared, {RESAMPLES} permutations)"
        )
        return Finding(check, BREAKS if p < LEVEL else KEEPS, detail)

    def samples(self) -> list[Finding]:
        """Lengths and accuracy of sampled texts: equal in distribution?"""
        asks, asked_of = [], []
        for question in self.questions:
            for seed in range(self._samples_per_question):
                asks.append(Ask(question.text, seed, self.temperature, self.max_tokens))
                asked_of.append(question)
        lengths, right = [], []
        for source in (self.source, self.against):
            replies = self._asked(source, asks)
            lengths.append([float(reply.new_tokens or 0) for reply in replies])
            graded = [self.is_right(q, r.text) for q, r in zip(asked_of, replies, strict=True)]
            right.append([float(is_right) for is_right in graded if is_right is not None])
        findings = [_difference("length of samples, tokens", *lengths)]
        if right[0] and right[1]:
            findings.append(_difference("accuracy of samples", *right))
        else:
            findings.append(Finding("accuracy of samples", UNKNOWN, "no answer to grade by"))
        return findings


def _texts(replies: Sequence[Reply]) -> int:
    """How many are different."""
    return len({tuple(reply.token_ids) or reply.text for reply in replies})


def countable(replies: Sequence[Reply]) -> int:
    """As many first tokens (or characters) as leave PER_BEGINNING replies a different beginning.

    Chosen on both sources together, so the choice favours neither.
    """
    most = len(replies) // PER_BEGINNING
    tokens = 1
    while tokens < FIRST_TOKENS:
        if len({_beginning(reply, tokens + 1) for reply in replies}) > most:
            break
        tokens += 1
    return tokens


def _beginning(reply: Reply, tokens: int) -> Sequence[object]:
    return tuple(reply.token_ids[:tokens]) or reply.text[:tokens]


def same_distribution(a: Counter[Any], b: Counter[Any], seed: int = 0) -> tuple[float, float]:
    """(p, total variation) of two samples of categories; p by permuting the chi-squared statistic,
    which holds for rare categories too.
    """
    kinds = sorted(set(a) | set(b), key=repr)
    if len(kinds) == 1:
        return 1.0, 0.0
    table = np.array([[counts[kind] for kind in kinds] for counts in (a, b)])
    shares = table / table.sum(axis=1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    labels = np.repeat([0, 1], table.sum(axis=1))
    observed = np.concatenate([np.repeat(np.arange(len(kinds)), row) for row in table])
    totals = table.sum(axis=0)
    expected = totals * table[0].sum() / table.sum()
    rng = np.random.default_rng(seed)

    def statistic(of_first: np.ndarray) -> float:
        counts = np.bincount(of_first, minlength=len(kinds))
        return float(((counts - expected) ** 2 / totals).sum())

    found = statistic(observed[labels == 0])
    size = int((labels == 0).sum())
    extreme = 0
    for _ in range(RESAMPLES):
        extreme += statistic(rng.permutation(observed)[:size]) >= found - 1e-12
    return (extreme + 1) / (RESAMPLES + 1), distance


def _difference(check: str, a: Sequence[float], b: Sequence[float]) -> Finding:
    """Do two means differ, by Welch's interval?"""
    difference = mean(a) - mean(b)
    detail = f"{mean(a):.2f} against {mean(b):.2f}, {len(a)} each"
    if np.var(a) == np.var(b) == 0:
        return Finding(check, KEEPS if difference == 0 else BREAKS, detail)
    with warnings.catch_warnings():
        # samples that all have one length: their variance is 0 to the last digit
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(a, b, equal_var=False)
    interval = test.confidence_interval(0.95)
    detail += f"; difference {difference:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
    return Finding(check, BREAKS if test.pvalue < LEVEL else KEEPS, detail)
