"""Train an EAGLE-3 head by training-time test, for the mini family or one's own target.

    python -m training.eagle3 --model-path MODEL --prompts FILE --out HEAD [--tokens 2000000]

FILE holds a prompt a line (plain text, or JSON with `turns` or `question`). The target writes
answers to them, at the temperature benchmarked; the head learns on those, unrolled over several of
its own steps (Li et al. 2025, section 3.2). What was written and learnt is saved in HEAD as it
comes: a run that was stopped goes on with the same command.

Shapes: B texts, T positions, S unrolled steps, V vocabulary, W draft vocabulary, H hidden size,
N heads, D head dimension.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from evaluation.command import Parser, at_least, real, run_command, summary
from evaluation.records.writer import write_atomically
from evaluation.running.build import resolved_model
from evaluation.running.spec import ModelSpec
from evaluation.tasks import jsonl
from model import checkpoint
from model.eagle3.checkpoint import FEWEST_LAYERS, default_layers, save_head
from model.eagle3.head import Eagle3Head, HeadConfig
from model.errors import UserError
from model.network import load_config
from training import initial
from training.corpus import NOTHING_TO_LEARN, Batch, Text, pack
from training.lm import Pace, load_state, optimisers, rate_factor, save_state, set_rate, update
from training.written import Writing, written_texts

TRAINED_LENGTH = 2048
"""What a head's configuration says of the texts it learnt from."""
PROGRESS_EVERY = 10
SAVE_EVERY = 50
"""Steps between two saved states."""
GRADIENT_NORM = 0.5


@dataclass(frozen=True)
class HeadRecipe:
    """What a head is a function of, beside target and texts."""

    feature_layers: tuple[int, ...]
    draft_vocab: int
    tokens: int
    rollout: int = 6
    decay: float = 0.8
    learning_rate: float = 6e-3
    batch_tokens: int = 2048
    warmup: int = 20
    seed: int = 1
    autocast: bool = True
    """Multiply matrices in bfloat16?"""


def head_config(recipe: HeadRecipe, config: Any) -> HeadConfig:
    """The head's shape for a target of this configuration."""
    return HeadConfig(
        hidden=config.hidden_size,
        intermediate=initial.width(config),
        heads=config.num_attention_heads,
        kv_heads=initial.kv_heads(config),
        head_dim=initial.head_dim(config),
        vocab=config.vocab_size,
        draft_vocab=recipe.draft_vocab,
        target_hidden=config.hidden_size,
        feature_layers=recipe.feature_layers,
        eps=initial.epsilon(config),
        trained_length=TRAINED_LENGTH,
    )


def build_head(recipe: HeadRecipe, target: PreTrainedModel, texts: list[Text]) -> Eagle3Head:
    """A head for `target` that drafts the texts' commonest tokens.

    Its MLP, norm and output layer begin as the target's where it has the like, the rest at random.
    """
    torch.manual_seed(recipe.seed)
    config = target.config.get_text_config()
    ids = drafted_ids(texts, recipe.draft_vocab, config.vocab_size)
    head = Eagle3Head(dataclasses.replace(head_config(recipe, config), draft_vocab=len(ids)))
    initial.take_over(head, target, ids)
    head.d2t.copy_(ids - torch.arange(len(ids)))
    return head


def drafted_ids(texts: list[Text], draft_vocab: int, vocab: int) -> torch.Tensor:
    """The target's commonest tokens [W], ascending; unseen ones fill up."""
    counts = Counter(token for text in texts for token in text.output)
    ranked = [token for token, _ in counts.most_common(draft_vocab)]
    unseen = [token for token in range(vocab) if token not in counts]
    return torch.tensor(sorted(ranked + unseen[: draft_vocab - len(ranked)]))


@dataclass(frozen=True)
class Teacher:
    """What the target says of a batch."""

    features: torch.Tensor
    """[B, T, 3H], entering the feature layers."""
    logits: torch.Tensor
    """[B, T, V]"""


@torch.no_grad()
def observe(target: PreTrainedModel, ids: torch.Tensor, layers: tuple[int, ...]) -> Teacher:
    """One forward of the target over a batch's ids."""
    output = target(input_ids=ids, use_cache=False, output_hidden_states=True)
    features = torch.cat([output.hidden_states[layer] for layer in layers], dim=-1)
    return Teacher(features, output.logits)


@dataclass
class Rollout:
    """Loss and top-1 agreement of each unrolled step."""

    losses: list[torch.Tensor] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)

    def loss(self, decay: float) -> torch.Tensor:
        """The weighted sum: later steps count less."""
        weighted = [loss * decay**step for step, loss in enumerate(self.losses)]
        return torch.stack(weighted).sum()


def roll_out(
    head: Eagle3Head, embedding: torch.Tensor, batch: Batch, teacher: Teacher, steps: int
) -> Rollout:
    """Run the head over a batch, unrolled over S of its own steps.

    Step s at index t takes the feature (step 0: the target's, later: the head's own output) with
    token x[t+1+s] at position t+s and predicts x[t+2+s]; it attends step 0 up to t and the later
    steps at the same t only. What counts are positions whose predicted token the target wrote and
    whose teacher argmax can be drafted; the teacher's distribution is that over the draft
    vocabulary.
    """
    device, width = teacher.features.device, batch.ids.shape[1]
    ids, labels = batch.ids.to(device), batch.labels.to(device)
    feature = head.fuse(teacher.features)
    drafted = torch.arange(len(head.d2t), device=device) + head.d2t
    can_be_drafted = torch.zeros(teacher.logits.shape[-1], dtype=torch.bool, device=device)
    can_be_drafted.index_fill_(0, drafted, True)
    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    rollout = Rollout()
    for step in range(steps):
        rows = width - 2 - step  # indices with a token to read and one to predict
        if rows < 1:
            break
        feature = feature[:, :rows]
        keys, values = [k[:, :rows] for k in keys], [v[:, :rows] for v in values]
        cos, sin = head.rope(torch.arange(step, step + rows, device=device))
        tokens = ids[:, 1 + step : 1 + step + rows]
        residual, query, key, value = head.project(feature, embedding[tokens], cos, sin)
        keys.append(key)
        values.append(value)
        out = head.finish(residual, _attend(query, keys, values))
        predicted = labels[:, 2 + step : 2 + step + rows]
        logits = teacher.logits[:, 1 + step : 1 + step + rows]
        counts = (predicted != NOTHING_TO_LEARN) & can_be_drafted[logits.argmax(-1)]
        if not counts.any():  # the mean of nothing would ruin the weights
            break
        student = head.logits(out[counts]).float().log_softmax(-1)
        wanted = logits[counts][:, drafted].float().softmax(-1)
        rollout.losses.append(-(wanted * student).sum(-1).mean())
        agrees = student.argmax(-1) == wanted.argmax(-1)
        rollout.agreement.append(agrees.float().mean().item())
        feature = head.next_feature(out)
    return rollout


def _attend(
    query: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]
) -> torch.Tensor:
    """Queries [B, T, N, D] over step 0 causally and over the later steps at the same index."""
    groups = query.shape[2] // keys[0].shape[2]
    keys = [key.repeat_interleave(groups, dim=2) for key in keys]
    values = [value.repeat_interleave(groups, dim=2) for value in values]
    width, scale = query.shape[1], query.shape[-1] ** -0.5
    scores = query.transpose(1, 2) @ keys[0].transpose(1, 2).transpose(-1, -2) * scale
    causal = torch.ones(width, width, dtype=torch.bool, device=query.device).tril()
    scores = scores.masked_fill(~causal, float("-inf"))
    same_index = []
    for key in keys[1:]:
        score = (query * key).sum(-1).transpose(1, 2)[..., None] * scale
        same_index.append(score)
    weights = torch.cat([scores, *same_index], dim=-1).float().softmax(-1).to(query.dtype)
    mixed = (weights[..., :width] @ values[0].transpose(1, 2)).transpose(1, 2)
    for i, value in enumerate(values[1:]):
        mixed = mixed + weights[..., width + i].transpose(1, 2)[..., None] * value
    return mixed


def train_head(
    recipe: HeadRecipe,
    target: PreTrainedModel,
    texts: list[Text],
    state: Path | None = None,
    shows_bar: bool = False,
) -> Eagle3Head:
    """Train on the texts, in seeded order and as many passes as `tokens` takes.

    With `state`, a file, a stopped training goes on where it was. Prints the agreement of each
    unrolled step.
    """
    device = target.device
    head = build_head(recipe, target, texts).to(device)
    embedding = target.get_input_embeddings().get_parameter("weight")
    optims = optimisers(head, recipe.learning_rate)
    batches = _batches(recipe, texts)
    steps = max(1, len(batches) * recipe.tokens // sum(batch.tokens for batch in batches))
    tokens = sum(len(text) for text in texts)
    first = load_state(state, head, optims, device) if state else 0
    print(f"{len(texts)} texts of {tokens} tokens, {steps} steps", flush=True)
    if first:
        print(f"going on from step {first}", flush=True)
    pace = Pace()
    bar = tqdm(initial=first, total=steps, desc="head", unit="step", disable=not shows_bar)
    for step, batch in list(enumerate(batches[:steps]))[first:]:
        factor = rate_factor(step, steps, steps // 2 + 1, recipe.warmup)
        set_rate(optims, recipe.learning_rate * factor)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.autocast):
            teacher = observe(target, batch.ids.to(device), recipe.feature_layers)
            rollout = roll_out(head, embedding, batch, teacher, recipe.rollout)
        bar.update(1)
        if not rollout.losses:
            continue
        rollout.loss(recipe.decay).backward()
        update(head, optims, GRADIENT_NORM)
        pace.tokens += batch.tokens
        done = step + 1
        if done % PROGRESS_EVERY == 0 or done == steps:
            agreement = " ".join(f"{share:.2f}" for share in rollout.agreement)
            said = f"step {done}/{steps}  agreement {agreement}  {pace.rate:.0f} tokens/s"
            print(said, flush=True) if not shows_bar else bar.write(said)
        if state and (done % SAVE_EVERY == 0 or done == steps):
            save_state(state, head, optims, done)
    bar.close()
    return head.eval().requires_grad_(False)


def _batches(recipe: HeadRecipe, texts: list[Text]) -> list[Batch]:
    """Whole passes over the texts, until they hold as many tokens as are to be learnt from."""
    rng = Random(recipe.seed)
    batches: list[Batch] = []
    while sum(batch.tokens for batch in batches) < recipe.tokens:
        batches += pack(texts, recipe.batch_tokens, rng)
    return batches


def read_prompts(file: str) -> list[str]:
    """A prompt a line, or JSON lines with questions; raises UserError where there are none."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read --prompts {file}: {reason}") from None
    prompts = [line for line in lines if line.strip()]
    if prompts and prompts[0].startswith("{"):
        prompts = [question.text for question in jsonl.questions(Path(file))]
    if not prompts:
        raise UserError(f"--prompts {file} holds no prompts")
    return prompts


def _parser() -> Parser:
    parser = Parser(description=summary(__doc__))
    parser.add_argument(
        "--model-path", required=True, help="the target: a folder, a hub id, or 'mini'"
    )
    parser.add_argument(
        "--prompts", required=True, help="a prompt a line, or JSON lines with questions"
    )
    parser.add_argument("--out", required=True, help="folder for the head")
    parser.add_argument(
        "--tokens", type=int, default=2_000_000, help="target-written tokens to learn from"
    )
    parser.add_argument(
        "--draft-vocab", type=int, default=32_000, help="commonest tokens that can be drafted"
    )
    parser.add_argument(
        "--rollout", type=int, default=7, help="unrolled steps: train as many as are drafted"
    )
    parser.add_argument("--temperature", type=real, default=0.6)
    parser.add_argument("--max-new-tokens", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--learning-rate", type=real, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--chat-template", metavar="FILE", help="a Jinja chat template, for tokenizers without one"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def recipe_of(args: argparse.Namespace, config: Any) -> HeadRecipe:
    """Raises UserError for flags that make no sense, and targets no head can be made for."""
    at_least(args, 1, "tokens", "draft_vocab", "rollout", "max_new_tokens", "batch_tokens")
    at_least(args, 0, "temperature", "threads", "seed")
    if args.learning_rate <= 0:
        raise UserError(f"--learning-rate must be above 0, not {args.learning_rate}")
    if config.num_hidden_layers < FEWEST_LAYERS:
        raise UserError(
            f"an EAGLE-3 head takes features from three of at least {FEWEST_LAYERS} layers; this"
            f" target has {config.num_hidden_layers}"
        )
    return HeadRecipe(
        feature_layers=default_layers(config.num_hidden_layers),
        draft_vocab=min(args.draft_vocab, config.vocab_size),
        tokens=args.tokens,
        rollout=args.rollout,
        learning_rate=args.learning_rate,
        batch_tokens=args.batch_tokens,
        seed=args.seed,
        autocast=args.device.startswith("cuda") or bfloat16_is_faster(),
    )


def bfloat16_is_faster() -> bool:
    """Does this CPU multiply bfloat16 matrices faster than fp32? One without instructions for it is
    ten times slower."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(256, 512, dtype=dtype)
        b = torch.ones(512, 512, dtype=dtype)
        a @ b
        begun = time.perf_counter()
        for _ in range(5):
            a @ b
        seconds[dtype] = time.perf_counter() - begun
    return seconds[torch.bfloat16] < seconds[torch.float32]


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder of the head and of what is needed to go on.

    Raises UserError where it cannot be written, or was begun with other settings.
    """
    file = out / "training.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if file.exists():
            begun = json.loads(file.read_text(encoding="utf-8"))
            differing = [name for name in settings if begun.get(name) != settings[name]]
            if differing:
                said = [f"{n}: {begun.get(n)!r} then, {settings[n]!r} now" for n in differing]
                raise UserError(
                    f"{out} was begun with other settings ({'; '.join(said)}); use the same ones,"
                    " another --out, or delete the folder"
                )
        write_atomically(file, json.dumps(settings, indent=1) + "\n")
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot use --out {out}: {reason}") from None


def main() -> int:
    """Train a head for the user's own target on the user's own prompts."""
    args = _parser().parse_args()
    begun, out = time.time(), Path(args.out)
    path = checkpoint.resolve(args.model_path)
    config = load_config(path)
    recipe = recipe_of(args, config.get_text_config())
    prompts = read_prompts(args.prompts)
    tokenizer = checkpoint.load_tokenizer(path, args.chat_template)
    device = resolved_model(ModelSpec(path, device=args.device, threads=args.threads)).device
    begin(
        out,
        {
            **json.loads(json.dumps(dataclasses.asdict(recipe) | {"autocast": None})),
            "model": args.model_path,
            "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16],
            "temperature": args.temperature,
            "max_new_tokens": args.max_new_tokens,
        },
    )
    dtype = torch.bfloat16 if str(device).startswith("cuda") else torch.float32
    # the engine's checks too: what it cannot run needs no head
    target = checkpoint.load_model(path, str(dtype).removeprefix("torch."), str(device)).network
    target.set_attn_implementation("sdpa")
    writing = Writing(prompts, args.temperature, args.max_new_tokens, args.tokens, args.seed)
    texts = written_texts(writing, target, tokenizer, out / "texts.jsonl")
    head = train_head(recipe, target, texts, out / "state.pt", shows_bar=True)
    save_head(head, out)
    (out / "state.pt").unlink(missing_ok=True)
    minutes = (time.time() - begun) / 60
    print(f"head: {out} ({minutes:.0f} minutes; what the target wrote: {out / 'texts.jsonl'})")
    return 0


if __name__ == "__main__":
    run_command(main)()
