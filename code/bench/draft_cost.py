"""What a draft step costs, measured against the same forwards made plainly.

    python bench/draft_cost.py [--threads 1]

SpS: a drafted token against a vanilla step of the draft model itself. EAGLE-3: a level of the
growing tree against one forward of the head's layer. Both sides take turns in one process on the
mini family; medians are printed, and for SpS the median of the paired ratios.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from evaluation import tasks
from evaluation.command import Parser, run_command, summary
from evaluation.paradigms import user
from evaluation.running.prompting import prompt_ids
from model import checkpoint, methods
from model.contract import Context, Drafter, Prefill, Request
from model.drafters.sps import Sps
from model.drafting import alone
from model.eagle3.tree import DraftState, HeadRows, TreeShape, layer
from model.engine.decode import generate
from model.engine.model import Model
from model.engine.noise import PositionNoise

DRAFTED = 20
"""Tokens that SpS drafts a step."""
SPS_ROUNDS = 12
UNTIMED_ROUNDS = 2
TARGET_STEPS = 59
HEAD_POSITIONS = 1024
SHALLOW, DEEP, TREE_NODES = 2, 10, 20
"""The cost of a level is that of the levels between two depths."""
LEVELS = DEEP - SHALLOW


def seconds(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return perf_counter() - begun


def microseconds(value: float) -> str:
    return f"{1e6 * value:.0f} us"


def sps(target: Model, prompt: list[int]) -> None:
    """Drafted tokens against vanilla tokens of the same model behind the same prompt."""
    drafter = methods.load("sps", target, {"sps_tokens": DRAFTED, "sps_confidence": 0.0})
    draft_model = checkpoint.load_model(checkpoint.resolve("mini", "draft"))
    vanilla = methods.load("vanilla", draft_model)
    draft_steps, plain = [], []
    for _ in range(SPS_ROUNDS):
        draft_steps.append(drafted_token_seconds(drafter, prompt))
        plain.append(vanilla_step_seconds(draft_model, vanilla, prompt))
    pairs = list(zip(draft_steps, plain))[UNTIMED_ROUNDS:]
    ratio = median(draft_step / step for draft_step, step in pairs)
    draft_step, step = median(draft_steps), median(plain)
    print(
        f"SpS draft step {microseconds(draft_step)}, the draft model's own vanilla step"
        f" {microseconds(step)}, ratio {ratio:.2f}"
    )
    target_step = target_step_seconds(target, prompt)
    print(
        f"target's vanilla step {microseconds(target_step)}: the draft model is"
        f" {target_step / step:.1f}x cheaper"
    )


def drafted_token_seconds(drafter: Sps, prompt: list[int]) -> float:
    """Of one proposal, the prompt cached beforehand."""
    request = Request(prompt, 400)
    first_token = 1
    drafter.start(request, Prefill(first_token))
    alone(drafter.draft_model.catch_up([*prompt, first_token]))
    context = Context(
        root=first_token,
        cached=len(prompt),
        emitted=1,
        remaining=request.max_new_tokens - 1,
        max_nodes=DRAFTED + 1,
        request=request,
        noise=PositionNoise(0),
    )
    return seconds(lambda: drafter.propose(context)) / DRAFTED


def vanilla_step_seconds(draft_model: Model, vanilla: Drafter, prompt: list[int]) -> float:
    """Of generating as many tokens as SpS drafts."""
    times = generate(draft_model, vanilla, Request(prompt, DRAFTED + 1)).times
    return (times.wall - times.prefill) / DRAFTED


def target_step_seconds(target: Model, prompt: list[int]) -> float:
    vanilla = methods.load("vanilla", target)
    for _ in range(2):  # the first records the forward
        times = generate(target, vanilla, Request(prompt, TARGET_STEPS + 1)).times
    return times.verify / TARGET_STEPS


def eagle3(target: Model, prompt: list[int], k: int) -> None:
    """A level of k rows against one forward of the head's layer and logits over as many rows."""
    drafter = methods.load("eagle3", target)
    hidden = target.config.hidden_size
    state = DraftState(drafter.head, drafter.embedding, HEAD_POSITIONS)
    state.catch_up(torch.randn(len(prompt), 3 * hidden), prompt)
    feature, tokens = torch.randn(k, hidden), torch.tensor(prompt[:k])
    cos, sin = state.cos[99:100].expand(k, -1), state.sin[99:100].expand(k, -1)
    mask = torch.ones(k, state.stable + k, dtype=torch.bool)
    rows = HeadRows(state, feature, tokens, cos, sin, state.stable, mask, k)

    @torch.inference_mode()
    def layer_forwards() -> None:
        for _ in range(LEVELS):
            state.head.logits(layer([rows]))

    def grow(depth: int) -> None:
        state.grow(TreeShape(k, depth, TREE_NODES))

    shallow = median(seconds(lambda: grow(SHALLOW)) for _ in range(30))
    grow(DEEP)
    layer_forwards()
    deep_trees, layers = [], []
    for _ in range(40):
        deep_trees.append(seconds(lambda: grow(DEEP)))
        layers.append(seconds(layer_forwards))
    level = (median(deep_trees) - shallow) / LEVELS
    forward = median(layers) / LEVELS
    print(
        f"EAGLE-3 level of {k} rows {microseconds(level)}, one layer forward"
        f" {microseconds(forward)}, ratio {level / forward:.2f}"
    )


def main() -> None:
    parser = Parser(description=summary(__doc__))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = checkpoint.load("mini")
    _, questions = tasks.load("mini")
    prompt = prompt_ids(loaded.tokenizer, [user(questions[0].text)]) * 3
    sps(loaded.model, prompt)
    for k in (1, 2, 10):
        eagle3(loaded.model, prompt, k)


if __name__ == "__main__":
    run_command(main)()
