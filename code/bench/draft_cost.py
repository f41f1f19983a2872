"""What a draft step costs: SpS against the draft model's own vanilla step, EAGLE-3's level against one layer forward.

    python bench/draft_cost.py [--threads 1]

Both sides take turns in one process on the mini family; medians, and the median of paired ratios.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from evaluation import tasks
from evaluation.prompting import prompt_ids
from model import checkpoint, draft
from model.draft import Context, Prefill, Request
from model.eagle3.tree import DraftState
from model.engine.decode import generate
from model.engine.sampling import PositionNoise


def timed(work) -> float:
    begun = perf_counter()
    work()
    return perf_counter() - begun


def paired(first, second, rounds: int) -> tuple[float, float]:
    """Medians of two pieces of work taking turns, after each has run once."""
    for work in (first, second):
        work()
    return tuple(median(t) for t in zip(*((timed(first), timed(second)) for _ in range(rounds))))


def sps(loaded: checkpoint.Loaded, ids: list[int]) -> None:
    """20 drafted tokens against 20 vanilla tokens of the same model behind the same prompt."""
    drafter = draft.load("sps", loaded.target, {"draft_confidence": 0.0})
    request = Request(ids, 400)
    own = checkpoint.load_target(checkpoint.resolve("mini", "draft"))
    vanilla = draft.load("vanilla", own)

    def drafting() -> None:
        drafter.start(request, Prefill(1))
        drafter.model.catch_up(drafter._text)
        begun = perf_counter()
        drafter.propose(Context(1, len(ids), 1, 399, 21, request, PositionNoise(0)))
        spent.append((perf_counter() - begun) / 20)

    def alone() -> None:
        times = generate(own, vanilla, Request(ids, 21)).times
        plain.append((times.wall - times.prefill) / 20)

    spent: list[float] = []
    plain: list[float] = []
    for _ in range(12):
        drafting()
        alone()
    a, b, ratio = median(spent), median(plain), median(x / y for x, y in zip(spent[2:], plain[2:]))
    print(f"SpS draft step {1e6 * a:.0f} us, the draft model's own vanilla step {1e6 * b:.0f} us, ratio {ratio:.2f}")
    for _ in range(2):  # the first records the forward as a graph
        target = generate(loaded.target, draft.load("vanilla", loaded.target), Request(ids, 60)).times
    print(f"target's vanilla step {1e6 * target.verify / 59:.0f} us: the draft model is {target.verify / 59 / b:.1f}x cheaper")


def eagle3(loaded: checkpoint.Loaded, ids: list[int], k: int) -> None:
    """A level of the growing tree against one forward of the head's layer and logits over as many rows."""
    drafter = draft.load("eagle3", loaded.target)
    state = DraftState(drafter.head, drafter.embedding, 1024)
    state.catch_up(torch.randn(len(ids), 3 * loaded.target.config.hidden_size), ids)
    feature, tokens, at = torch.randn(k, loaded.target.config.hidden_size), torch.tensor(ids[:k]), slice(99, 100)
    mask = torch.ones(k, state.stable + k, dtype=torch.bool)

    @torch.inference_mode()
    def layer() -> None:
        for _ in range(8):
            out = state._rows(feature, tokens, state.cos[at].expand(k, -1), state.sin[at].expand(k, -1), state.stable, mask)
            state.head.logits(out)

    shallow = median(timed(lambda: state.grow(k, 2, 20)) for _ in range(30))
    full, plain = paired(lambda: state.grow(k, 10, 20), layer, 40)
    level, one = (full - shallow) / 8, plain / 8
    print(f"EAGLE-3 level of {k} rows {1e6 * level:.0f} us, one layer forward {1e6 * one:.0f} us, ratio {level / one:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = checkpoint.load("mini")
    _, questions = tasks.load("mini")
    ids = prompt_ids(loaded.tokenizer, [{"role": "user", "content": questions[0].text}]) * 3
    sps(loaded, ids)
    for k in (1, 2, 10):
        eagle3(loaded, ids, k)


if __name__ == "__main__":
    main()
