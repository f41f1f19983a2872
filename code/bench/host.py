"""Host time of a drafter's step, by method, history and vocabulary: its cost beside the model.

    python bench/host.py

The history is Zipf-weighted text with repeated passages, so that drafts are found. Every emitted
token is fed one step at a time (the worst case). Medians of propose + observe in microseconds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from evaluation.command import Parser, run_command, summary
from model import methods
from model.contract import Context, Drafter, Prefill, Request, StepOut
from model.engine.noise import PositionNoise
from model.index import suffix_array

STEPS = 300
"""Timed behind each history."""
HISTORIES = (1000, 4000, 15000, 30000)
VOCABULARIES = (1200, 151936)
METHODS: tuple[tuple[str, dict[str, object]], ...] = (
    ("pld", {}),
    ("sam", {}),
    ("suffix", {}),
    ("pia", {}),
    ("blend", {"blend_nodes": 32}),
    ("blend", {"blend_nodes": 8}),
    ("recycling", {}),
    ("stand", {}),
)
"""And their options."""
PROMPT = 15_000
REPEATED = 0.33
"""Share of the pieces of a text that repeat an earlier passage."""
LOGPROBS = np.log(np.array([0.8] + [0.02] * 9, dtype=np.float32))
"""Of the target's likeliest tokens."""
STORE_DOCUMENTS, STORE_DOCUMENT_TOKENS = 2000, 5000
STORE_HISTORIES = (1000, 15000)


@dataclass(frozen=True)
class VocabularyOnly:
    """Stands in for the target: the drafters measured here ask for nothing else of it."""

    vocab_size: int
    path: str = ""


def text_of(length: int, vocab: int, seed: int = 0) -> list[int]:
    """Zipf-weighted tokens in which a third of the pieces repeats earlier passages."""
    rng = np.random.default_rng(seed)
    text: list[int] = []
    while len(text) < length:
        if len(text) > 200 and rng.random() < REPEATED:
            start = int(rng.integers(0, len(text) - 60))
            text += text[start : start + int(rng.integers(10, 60))]
        else:
            text += (np.minimum(rng.zipf(1.3, 30), vocab) - 1).tolist()
    return text[:length]


def step_times(drafter: Drafter, history: int, vocab: int) -> list[float]:
    """Seconds of each propose + observe after `history` tokens, half of them prompt."""
    text = text_of(history + STEPS + 2, vocab)
    half = history // 2
    request = Request(text[:half], history + STEPS)
    drafter.enter("run", "bench")
    drafter.start(request, Prefill(text[half]))
    rng = np.random.default_rng(1)
    times = []
    for position in range(half, history + STEPS):
        begun = perf_counter()
        context = Context(
            root=text[position],
            cached=position,
            emitted=position - half + 1,
            remaining=10_000,
            max_nodes=drafter.needs.max_nodes,
            request=request,
            noise=PositionNoise(0),
        )
        draft = drafter.propose(context)
        proposed = perf_counter()
        topk = logprobs = None
        if drafter.needs.target_topk:
            shape = (draft.candidates, drafter.needs.target_topk)
            topk = rng.integers(0, vocab, shape)
            topk[0, 0] = text[position + 1]  # the text's own tokens come back, others are noise
            logprobs = np.tile(LOGPROBS[: shape[1]], (shape[0], 1))
        out = StepOut(
            draft,
            [0],
            [text[position + 1]],
            finished=False,
            target_topk=topk,
            target_logprobs=logprobs,
        )
        resumed = perf_counter()
        drafter.during_verify()  # on a GPU hidden behind the forward; counted here
        drafter.observe(out)
        if position >= history:
            times.append(proposed - begun + perf_counter() - resumed)
    return times


def median_microseconds(drafter: Drafter, history: int, vocab: int) -> float:
    return 1e6 * median(step_times(drafter, history, vocab))


def prompt_milliseconds(drafter: Drafter, vocab: int) -> float:
    """Of taking a prompt of PROMPT tokens."""
    text = text_of(PROMPT, vocab)
    drafter.enter("run", "bench")
    begun = perf_counter()
    drafter.start(Request(text, 100), Prefill(text[0]))
    return 1e3 * (perf_counter() - begun)


def without_artefacts() -> None:
    """The methods that need no datastore, a row each."""
    lengths = " ".join(f"{history:>9d}" for history in HISTORIES)
    print(f"{'method':10s} {'nodes':>5s} {'vocabulary':>10s} {lengths} {'prompt ms':>9s}")
    for vocab in VOCABULARIES:
        for name, options in METHODS:
            step_times(methods.load(name, VocabularyOnly(vocab), options), 500, vocab)  # compiles
            medians = []
            for history in HISTORIES:
                drafter = methods.load(name, VocabularyOnly(vocab), options)
                medians.append(median_microseconds(drafter, history, vocab))
            cells = " ".join(f"{value:9.1f}" for value in medians)
            drafter = methods.load(name, VocabularyOnly(vocab), options)
            cells += f" {prompt_milliseconds(drafter, vocab):9.1f}"
            nodes = drafter.needs.max_nodes
            print(f"{name:10s} {nodes:5d} {vocab:10d} {cells}", flush=True)


def rest() -> None:
    """REST with a datastore of ten million tokens."""
    vocab = VOCABULARIES[0]
    seeds = range(STORE_DOCUMENTS)
    documents = [text_of(STORE_DOCUMENT_TOKENS, vocab, seed) for seed in seeds]
    with TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        suffix_array.build(store, documents, {"vocab_size": vocab, "tokenizer": ""})
        options = {"rest_datastore": str(store)}
        drafter = methods.load("rest", VocabularyOnly(vocab), options)
        cells = []
        for history in STORE_HISTORIES:
            cells.append(f"{history}: {median_microseconds(drafter, history, vocab):.1f}")
    tokens = STORE_DOCUMENTS * STORE_DOCUMENT_TOKENS
    print(f"rest, datastore of {tokens:,} tokens: {', '.join(cells)} microseconds")


def main() -> None:
    Parser(description=summary(__doc__)).parse_args()
    without_artefacts()
    rest()


if __name__ == "__main__":
    run_command(main)()
