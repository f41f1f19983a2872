"""Train an EAGLE-3 head by training-time test (Li et al. 2025, section 3.2), for the mini family or one's own target.

    python -m training.eagle3 --model-path MODEL --prompts FILE --out HEAD [--tokens 2000000]

FILE holds a prompt a line (plain text, or JSON with `turns` or `question`). The target writes answers to them, at the
temperature benchmarked; the head learns on those, unrolled over several of its own steps.

Shapes: B texts, T positions, S unrolled steps, N heads, D head dimension, W draft vocabulary.
"""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from transformers import PreTrainedModel

from model.eagle3.head import Eagle3Head, HeadConfig
from training.corpus import Batch, pack
from training.lm import optimisers, rate_factor, set_rate, update

Text = tuple[list[int], list[int]]


@dataclass(frozen=True)
class HeadRecipe:
    """What a head is a function of, beside target and texts."""

    feature_layers: tuple[int, int, int]
    draft_vocab: int
    tokens: int
    rollout: int = 6
    decay: float = 0.8
    learning_rate: float = 6e-3
    batch_tokens: int = 2048
    warmup: int = 20
    seed: int = 1


def build_head(recipe: HeadRecipe, target: PreTrainedModel, texts: list[Text]) -> Eagle3Head:
    """A head for `target`: MLP and lm_head begin as the target's, the rest at random; commonest tokens drafted."""
    torch.manual_seed(recipe.seed)
    config = target.config
    counts = Counter(t for _, output in texts for t in output)
    ranked = [t for t, _ in counts.most_common(recipe.draft_vocab)]
    ranked += [t for t in range(config.vocab_size) if t not in counts][: recipe.draft_vocab - len(ranked)]
    ids = torch.tensor(sorted(ranked))
    heads = config.num_attention_heads
    head = Eagle3Head(HeadConfig(
        hidden=config.hidden_size, intermediate=config.intermediate_size, heads=heads,
        kv_heads=config.num_key_value_heads, head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab=config.vocab_size, draft_vocab=len(ids), target_hidden=config.hidden_size,
        feature_layers=recipe.feature_layers, eps=config.rms_norm_eps, trained_length=2048))
    last = target.get_decoder().layers[-1]
    head.midlayer.mlp.load_state_dict(last.mlp.state_dict())
    head.lm_head.weight.data.copy_(target.get_output_embeddings().weight[ids.to(target.device)])
    head.norm.weight.data.copy_(target.get_decoder().norm.weight)
    head.d2t.copy_(ids - torch.arange(len(ids)))
    return head


@torch.no_grad()
def observe(target: PreTrainedModel, ids: torch.Tensor, layers: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's features [B, T, 3H] entering `layers` and its logits [B, T, V]."""
    output = target(input_ids=ids, use_cache=False, output_hidden_states=True)
    return torch.cat([output.hidden_states[i] for i in layers], dim=-1), output.logits


def rollout_losses(head: Eagle3Head, embedding: torch.Tensor, batch: Batch, features: torch.Tensor,
                   logits: torch.Tensor, steps: int) -> tuple[list[torch.Tensor], list[float]]:
    """Loss and top-1 agreement of each unrolled step.

    Step s at index t takes the feature (step 0: the target's, later: the head's own output) with token x[t+1+s] at
    position t+s and predicts x[t+2+s]; it attends step 0 up to t and the later steps at the same t only. The teacher
    is the target's distribution over the draft vocabulary; what counts are positions whose predicted token the
    target wrote and whose teacher argmax can be drafted.
    """
    ids, width = batch.ids.to(features.device), batch.ids.shape[1]
    feature = head.fuse(features)
    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    losses, agreement = [], []
    drafted = torch.arange(len(head.d2t), device=ids.device) + head.d2t
    inside = torch.zeros(logits.shape[-1], dtype=torch.bool, device=ids.device).index_fill(0, drafted, True)
    for s in range(steps):
        n = width - 2 - s  # indices with a token to read and one to predict
        if n < 1:
            break
        feature = feature[:, :n]
        keys, values = [k[:, :n] for k in keys], [v[:, :n] for v in values]
        cos, sin = head.rope(torch.arange(s, s + n, device=ids.device))
        residual, q, k, v = head.project(feature, embedding[ids[:, 1 + s:1 + s + n]], cos, sin)
        keys.append(k)
        values.append(v)
        out = head.finish(residual, _attend(q, keys, values))
        predicted = batch.labels[:, 2 + s:2 + s + n].to(ids.device)
        teacher = logits[:, 1 + s:1 + s + n]
        counts = (predicted != -100) & inside[teacher.argmax(-1)]
        if not counts.any():  # nothing to learn from at this depth: the mean of nothing would ruin the weights
            break
        student = head.logits(out[counts]).float().log_softmax(-1)
        wanted = teacher[counts][:, drafted].float().softmax(-1)
        losses.append(-(wanted * student).sum(-1).mean())
        agreement.append((student.argmax(-1) == wanted.argmax(-1)).float().mean().item())
        feature = head.next_feature(out)
    return losses, agreement


def _attend(q: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
    """Queries [B, T, N, D] over step 0 causally and over the later steps at the same index."""
    groups = q.shape[2] // keys[0].shape[2]
    spread = [k.repeat_interleave(groups, dim=2) for k in keys], [v.repeat_interleave(groups, dim=2) for v in values]
    query, first, first_values = (x.transpose(1, 2) for x in (q, spread[0][0], spread[1][0]))
    scale = q.shape[-1] ** -0.5
    width = q.shape[1]
    scores = query @ first.transpose(-1, -2) * scale
    scores = scores.masked_fill(~torch.ones(width, width, dtype=torch.bool, device=q.device).tril(), float("-inf"))
    same = [(q * k).sum(-1).transpose(1, 2)[..., None] * scale for k in spread[0][1:]]
    weights = torch.cat([scores, *same], dim=-1).float().softmax(-1).to(q.dtype)
    mixed = (weights[..., :width] @ first_values).transpose(1, 2)
    for i, v in enumerate(spread[1][1:]):
        mixed = mixed + weights[..., width + i].transpose(1, 2)[..., None] * v
    return mixed


def train_head(recipe: HeadRecipe, target: PreTrainedModel, texts: list[Text]) -> Eagle3Head:
    """Train on the texts, in seeded order and as many passes as `tokens` takes; prints agreement per step."""
    device = target.device
    head = build_head(recipe, target, texts).to(device)
    embedding = target.get_input_embeddings().weight
    optims = optimisers(head, recipe.learning_rate)
    per_pass = sum(len(p) + len(o) for p, o in texts)
    rng, batches = Random(recipe.seed), []
    while sum(b.tokens for b in batches) < recipe.tokens:
        batches += pack(texts, recipe.batch_tokens, rng)
    steps, started, seen = max(1, len(batches) * recipe.tokens // sum(b.tokens for b in batches)), time.time(), 0
    print(f"{len(texts)} texts of {per_pass} tokens, {steps} steps", flush=True)
    for step in range(steps):
        set_rate(optims, recipe.learning_rate * rate_factor(step, steps, steps // 2 + 1, recipe.warmup))
        with torch.autocast(device.type, torch.bfloat16):
            features, logits = observe(target, batches[step].ids.to(device), recipe.feature_layers)
            losses, agreement = rollout_losses(head, embedding, batches[step], features, logits, recipe.rollout)
        if not losses:
            continue
        torch.stack([loss * recipe.decay**s for s, loss in enumerate(losses)]).sum().backward()
        update(head, optims, clip=0.5)
        seen += batches[step].tokens
        if step % 10 == 9 or step + 1 == steps:
            print(f"step {step + 1}/{steps}  agreement {' '.join(f'{a:.2f}' for a in agreement)}"
                  f"  {seen / (time.time() - started):.0f} tokens/s", flush=True)
    return head.eval().requires_grad_(False)




def main() -> int:
    """Train a head for the user's own target on the user's own prompts."""
    import argparse

    from evaluation.tasks import jsonl
    from model import checkpoint
    from model.eagle3.checkpoint import default_layers, save_head
    from model.errors import UserError
    from training import texts as written

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model-path", required=True, help="the target: a folder, a hub id, or 'mini'")
    parser.add_argument("--prompts", required=True, help="a prompt a line, or JSON lines with questions")
    parser.add_argument("--out", required=True, help="folder for the head")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="target-written tokens to learn from")
    parser.add_argument("--draft-vocab", type=int, default=32_000, help="commonest tokens that can be drafted")
    parser.add_argument("--rollout", type=int, default=7, help="unrolled steps: train as many as are drafted")
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--max-new-tokens", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    path = checkpoint.resolve(args.model_path)
    tokenizer = checkpoint.load_tokenizer(path)
    try:
        lines = [line for line in Path(args.prompts).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"cannot read --prompts {args.prompts}: {error.strerror}") from None
    users = [q.text for q in jsonl.questions(Path(args.prompts))] if lines and lines[0].startswith("{") else lines
    if not users:
        raise UserError(f"--prompts {args.prompts} holds no prompts")
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if args.device.startswith("cuda") else torch.float32
    target = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(args.device).eval().requires_grad_(False)
    texts, count = [], 0
    for text in written.write(target, tokenizer, users, args.temperature, args.max_new_tokens, seed=1):
        texts.append(text)
        count += len(text[1])
        if count >= args.tokens:
            break
    print(f"the target wrote {len(texts)} texts, {count} tokens", flush=True)
    recipe = HeadRecipe(default_layers(target.config.num_hidden_layers), min(args.draft_vocab, target.config.vocab_size),
                        args.tokens, args.rollout, learning_rate=args.learning_rate, batch_tokens=args.batch_tokens)
    save_head(train_head(recipe, target, texts), Path(args.out))
    print(f"head: {args.out}")
    return 0


if __name__ == "__main__":
    from evaluation.errors import guarded

    guarded(main)()
