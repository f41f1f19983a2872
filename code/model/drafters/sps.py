"""SpS, speculative sampling with a draft model (Leviathan et al. 2023; Chen et al. 2023): a small model drafts a chain.

At temperatures above 0 the draft is drawn either with the target's own noise at each position ("coupled": what both
models rate alike comes out alike, and the text is vanilla's), or independently and verified by speculative rejection
sampling ("rejection", as published). The draft model keeps its own KV cache up to the common prefix.
"""

from dataclasses import dataclass

import torch

from model import checkpoint
from model.draft import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.attention import Segment
from model.engine.sampling import noisy_argmax, processed
from model.engine.static import Choice
from model.engine.target import Output, Target
from model.errors import UserError

CHUNK = 512
FEW = 4  # tokens fed by recorded forwards: what a step leaves to catch up with; prompts and long copies run eagerly


@dataclass(frozen=True)
class Config:
    drafter_path: str = option("mini", "draft model: a folder, a hub id, or 'mini'")
    draft_tokens: int = option(20, "tokens drafted a step (with 'heuristic': at the start)")
    draft_schedule: str = option("constant", "'constant', or 'heuristic': +2 after a full acceptance, else -1")
    draft_confidence: float = option(0.4, "stop after a token the draft model gives less than this; 0: never")
    sps_mode: str = option("coupled", "at temperature > 0: 'coupled' noise or 'rejection' sampling")

    def __post_init__(self) -> None:
        for name, known in (("draft_schedule", ("constant", "heuristic")), ("sps_mode", ("coupled", "rejection"))):
            if getattr(self, name) not in known:
                raise UserError(f"--{name.replace('_', '-')} is one of {', '.join(known)}, not '{getattr(self, name)}'")


class DraftModel:
    """A model with its own cache that follows a growing text: rows beyond the common prefix are recomputed."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._cached: list[int] = []
        self._known = 0  # so many cached rows are known to agree with the text

    def start(self) -> None:
        """Another text."""
        self._cached, self._known = [], 0

    def catch_up(self, text: list[int], choice: Choice) -> Output:
        """Feed what of `text` is not cached; what comes after its last token."""
        limit = min(len(self._cached), len(text) - 1)  # the last token is always fed: its logits are wanted
        same = min(self._known, limit)
        while same < limit and self._cached[same] == text[same]:
            same += 1
        del self._cached[same:]
        output = None
        for begin in range(same, len(text), CHUNK):
            output = self.feed(text[begin:begin + CHUNK], choice)
        self._known = len(text)
        return output

    def feed(self, tokens: list[int], choice: Choice) -> Output:
        """More tokens; the logits [1, V] after the last one, picked (where the engine picks) as `choice` says."""
        start = len(self._cached)
        segment = Segment(0, start, tokens, range(start, start + len(tokens)))
        self._cached.extend(tokens)
        if len(tokens) > FEW:
            return self.target.forward([segment], last_only=True)
        if choice.keys is not None:  # only the last row's token is wanted
            choice = Choice(choice.temperature, [0] * (len(tokens) - 1) + list(choice.keys))
        return self.target.forward([segment], last_only=True, choice=choice)


class Sps(Drafter):
    def __init__(self, config: Config, draft_model: Target, vocab_size: int) -> None:
        self.config = config
        self.model = DraftModel(draft_model)
        self.vocab_size = vocab_size
        most = config.draft_tokens if config.draft_schedule == "constant" else 4 * config.draft_tokens
        self.needs = Needs(max_nodes=most + 1)
        self._most = most
        self._length = config.draft_tokens
        self._text: list[int] = []

    def forget(self) -> None:
        self._length = self.config.draft_tokens

    def reserve(self, positions: int) -> None:
        target = self.model.target
        before = target.cache
        target.reserve(positions + self.needs.max_nodes + 1)
        if target.cache is not before:
            for sampled in (False, True):
                target.prepare(FEW, sampled=sampled)

    def start(self, request: Request, prefill: Prefill) -> None:
        self._text = [*request.prompt_ids, prefill.first_token]
        self.reserve(len(request.prompt_ids) + request.max_new_tokens)
        self.model.start()

    def propose(self, context: Context) -> Draft:
        most = min(self._length, context.max_nodes - 1, context.remaining - 1,
                   self.model.target.max_positions - len(self._text))
        if most < 1:
            return Draft.only_root(context.root)
        tokens: list[int] = []
        distributions: list[torch.Tensor] = []
        output = self.model.catch_up(self._text, self._choice(context, 0))
        while True:
            token, probability = self._draw(output, context, len(tokens), distributions)
            tokens.append(token)
            if len(tokens) == most or token in context.request.stop_ids or probability < self.config.draft_confidence:
                break
            output = self.model.feed([token], self._choice(context, len(tokens)))
        return Draft.chain(context.root, tokens, "sps",
                           probabilities=torch.stack(distributions) if distributions else None)

    def observe(self, out: StepOut) -> None:
        self._text.extend(out.emitted)
        if self.config.draft_schedule == "heuristic" and out.draft.source == "sps":
            full = len(out.path) == out.draft.candidates
            self._length = min(self._most, self._length + 2) if full else max(1, self._length - 1)

    def _choice(self, context: Context, depth: int) -> Choice:
        """What the draft model's own forward may pick: the argmax, or a draw with the target's noise."""
        request = context.request
        if request.temperature == 0 or not self._plain(request):
            return Choice()
        return Choice(request.temperature, context.noise.keys([context.emitted + depth]))

    def _plain(self, request: Request) -> bool:
        """Nothing but a temperature stands between logits and token."""
        whole = self.model.target.vocab_size == self.vocab_size
        coupled = self.config.sps_mode == "coupled" and not request.top_k and request.top_p >= 1
        return whole and (coupled or request.temperature == 0)

    def _draw(self, output: Output, context: Context, depth: int, distributions: list[torch.Tensor],
              ) -> tuple[int, float]:
        """The next drafted token and its processed draft probability (1 where no confidence is asked for)."""
        request, position = context.request, context.emitted + depth
        scores = output.logits[0, :self.vocab_size]
        if request.temperature > 0:
            scores = processed(scores, request)
        if output.picked is not None and self._plain(request):
            token = output.picked[0, 1 if request.temperature else 0]
        elif request.temperature == 0:
            token = scores.argmax()
        else:
            rejection = self.config.sps_mode == "rejection"
            noise = context.noise.exponential([position], len(scores), scores.device, stream=2 if rejection else 0)
            token = noisy_argmax(scores, noise[0])
            if rejection:
                distributions.append(scores.softmax(-1))
        if not self.config.draft_confidence:
            return int(token), 1.0
        likelihood = scores.float().log_softmax(-1).gather(0, token.view(1))[0].exp()  # an index would be read on the host
        found, probability = torch.stack([token.double(), likelihood.double()]).tolist()  # one transfer for both
        return int(found), probability


def build(config: Config, host: Target) -> Drafter:
    path = checkpoint.resolve(config.drafter_path, part="draft")
    model = checkpoint.load_target(path, str(host.dtype).removeprefix("torch."), str(host.device),
                                   engine=host.engine)
    if model.config.vocab_size != host.config.vocab_size or (
            host.path and checkpoint.tokenizer_hash(path) != checkpoint.tokenizer_hash(host.path)):
        raise UserError(f"draft model {config.drafter_path} has another vocabulary than the target; SpS needs the same"
                        f" tokenizer, as Qwen3-0.6B is for Qwen3-8B")
    return Sps(config, model, host.vocab_size)
