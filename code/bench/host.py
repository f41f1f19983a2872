"""Host time of propose + observe a step, by method, history and vocabulary: what a drafter costs beside the model.

    python bench/host.py

The history is Zipf-weighted text with repeated passages, so that drafts are found. Every emitted token is fed one
step at a time (the worst case). Medians in microseconds.
"""

import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from model import draft
from model.draft import Context, Prefill, Request, StepOut
from model.engine.sampling import PositionNoise
from model.index import suffix_array

STEPS = 300


def text_of(length: int, vocab: int, seed: int = 0) -> list[int]:
    """Zipf-weighted tokens in which a third of the text repeats earlier passages."""
    rng, out = np.random.default_rng(seed), []
    while len(out) < length:
        if len(out) > 200 and rng.random() < 0.33:
            start = int(rng.integers(0, len(out) - 60))
            out += out[start:start + int(rng.integers(10, 60))]
        else:
            out += (np.minimum(rng.zipf(1.3, 30), vocab) - 1).tolist()
    return out[:length]


def step_times(drafter: draft.Drafter, history: int, vocab: int) -> list[float]:
    """Seconds of each propose + observe after `history` tokens."""
    text = text_of(history + STEPS + 2, vocab)
    half = history // 2
    request = Request(text[:half], history + STEPS)
    drafter.enter("run", "bench")
    drafter.start(request, Prefill(text[half]))
    rng, times = np.random.default_rng(1), []
    for i in range(half, history + STEPS):
        begun = perf_counter()
        proposed = drafter.propose(Context(text[i], i, i - half + 1, 10_000, drafter.needs.max_nodes, request,
                                           PositionNoise(0)))
        middle = perf_counter()
        topk = rng.integers(0, vocab, (proposed.candidates, 8)) if drafter.needs.topk else None
        out = StepOut(proposed, [0], [text[i + 1]], False, topk=topk)
        resumed = perf_counter()
        drafter.settle()  # on a GPU hidden behind the forward; counted here
        drafter.observe(out)
        if i >= history:
            times.append(middle - begun + perf_counter() - resumed)
    return times


def main() -> None:
    with TemporaryDirectory() as folder:
        print(f"{'method':10s} {'vocabulary':>10s} " + " ".join(f"{n:>9d}" for n in (1000, 4000, 15000, 30000)))
        for vocab in (1200, 151936):
            host = SimpleNamespace(vocab_size=vocab, path="")
            for name in ("pld", "sam", "pia", "recycling"):
                medians = [1e6 * median(step_times(draft.load(name, host), n, vocab)) for n in (1000, 4000, 15000, 30000)]
                print(f"{name:10s} {vocab:10d} " + " ".join(f"{m:9.1f}" for m in medians), flush=True)
        store = Path(folder) / "store"
        documents = [text_of(5000, 1200, seed) for seed in range(2000)]
        suffix_array.build(store, documents, {"vocab_size": 1200, "tokenizer": ""})
        host = SimpleNamespace(vocab_size=1200, path="")
        rest = draft.load("rest", host, {"datastore_path": str(store)})
        medians = [1e6 * median(step_times(rest, n, 1200)) for n in (1000, 15000)]
        print(f"rest, datastore of {2000 * 5000:,} tokens: 1000: {medians[0]:.1f}, 15000: {medians[1]:.1f} microseconds")


if __name__ == "__main__":
    main()
