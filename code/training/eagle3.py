"""Train an EAGLE-3 head by training-time test, for the mini family or one's own target.

    python -m training.eagle3 --model-path MODEL --prompts FILE --out HEAD [--tokens 2000000]

FILE holds a prompt a line (plain text, or JSON with `turns` or `question`). The target writes
answers to them, at the temperature benchmarked; the head learns on those, unrolled over several of
its own steps (Li et al. 2025, section 3.2).

Shapes: B texts, T positions, S unrolled steps, V vocabulary, W draft vocabulary, H hidden size,
N heads, D head dimension.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.command import Parser, run_command, summary
from evaluation.tasks import jsonl
from model import checkpoint
from model.eagle3.checkpoint import default_layers, save_head
from model.eagle3.head import Eagle3Head, HeadConfig
from model.errors import UserError
from training.corpus import NOTHING_TO_LEARN, Batch, Text, pack
from training.lm import Pace, optimisers, rate_factor, set_rate, update
from training.networks import load_target
from training.texts import write

TRAINED_LENGTH = 2048
"""What a head's configuration says of the texts it learnt from."""
PROGRESS_EVERY = 10
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


def build_head(recipe: HeadRecipe, target: PreTrainedModel, texts: list[Text]) -> Eagle3Head:
    """A head for `target` that drafts the texts' commonest tokens.

    Its MLP, norm and output layer begin as the target's, the rest at random.
    """
    torch.manual_seed(recipe.seed)
    config = target.config
    ids = drafted_ids(texts, recipe.draft_vocab, config.vocab_size)
    heads = config.num_attention_heads
    head = Eagle3Head(
        HeadConfig(
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocab=config.vocab_size,
            draft_vocab=len(ids),
            target_hidden=config.hidden_size,
            feature_layers=recipe.feature_layers,
            eps=config.rms_norm_eps,
            trained_length=TRAINED_LENGTH,
        )
    )
    decoder, output_layer = target.get_decoder(), target.get_output_embeddings()
    head.midlayer.mlp.load_state_dict(decoder.layers[-1].mlp.state_dict())
    head.lm_head.weight.data.copy_(output_layer.weight[ids.to(target.device)])
    head.norm.weight.data.copy_(decoder.norm.weight)
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


def train_head(recipe: HeadRecipe, target: PreTrainedModel, texts: list[Text]) -> Eagle3Head:
    """Train on the texts, in seeded order and as many passes as `tokens` takes.

    Prints the agreement of each unrolled step.
    """
    device = target.device
    head = build_head(recipe, target, texts).to(device)
    embedding = target.get_input_embeddings().get_parameter("weight")
    optims = optimisers(head, recipe.learning_rate)
    batches = _batches(recipe, texts)
    steps = max(1, len(batches) * recipe.tokens // sum(batch.tokens for batch in batches))
    tokens = sum(len(text) for text in texts)
    print(f"{len(texts)} texts of {tokens} tokens, {steps} steps", flush=True)
    pace = Pace()
    for step, batch in enumerate(batches[:steps]):
        factor = rate_factor(step, steps, steps // 2 + 1, recipe.warmup)
        set_rate(optims, recipe.learning_rate * factor)
        with torch.autocast(device.type, torch.bfloat16):
            teacher = observe(target, batch.ids.to(device), recipe.feature_layers)
            rollout = roll_out(head, embedding, batch, teacher, recipe.rollout)
        if not rollout.losses:
            continue
        rollout.loss(recipe.decay).backward()
        update(head, optims, GRADIENT_NORM)
        pace.tokens += batch.tokens
        done = step + 1
        if done % PROGRESS_EVERY == 0 or done == steps:
            agreement = " ".join(f"{share:.2f}" for share in rollout.agreement)
            print(
                f"step {done}/{steps}  agreement {agreement}  {pace.rate:.0f} tokens/s", flush=True
            )
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
    except OSError as error:
        raise UserError(f"cannot read --prompts {file}: {error.strerror}") from None
    prompts = [line for line in lines if line.strip()]
    if prompts and prompts[0].startswith("{"):
        prompts = [question.text for question in jsonl.questions(Path(file))]
    if not prompts:
        raise UserError(f"--prompts {file} holds no prompts")
    return prompts


def written_texts(
    target: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    args: argparse.Namespace,
) -> list[Text]:
    """The target's answers, until it has written as many tokens as are asked for."""
    texts: list[Text] = []
    tokens = 0
    for text in write(target, tokenizer, prompts, args.temperature, args.max_new_tokens, seed=1):
        texts.append(text)
        tokens += len(text.output)
        if tokens >= args.tokens:
            break
    print(f"the target wrote {len(texts)} texts, {tokens} tokens", flush=True)
    return texts


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
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--max-new-tokens", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def main() -> int:
    """Train a head for the user's own target on the user's own prompts."""
    args = _parser().parse_args()
    path = checkpoint.resolve(args.model_path)
    tokenizer = checkpoint.load_tokenizer(path)
    prompts = read_prompts(args.prompts)
    dtype = torch.bfloat16 if args.device.startswith("cuda") else torch.float32
    target = load_target(path, dtype, torch.device(args.device))
    texts = written_texts(target, tokenizer, prompts, args)
    recipe = HeadRecipe(
        feature_layers=default_layers(target.config.num_hidden_layers),
        draft_vocab=min(args.draft_vocab, target.config.vocab_size),
        tokens=args.tokens,
        rollout=args.rollout,
        learning_rate=args.learning_rate,
        batch_tokens=args.batch_tokens,
    )
    save_head(train_head(recipe, target, texts), Path(args.out))
    print(f"head: {args.out}")
    return 0


if __name__ == "__main__":
    run_command(main)()
