"""SpS, speculative sampling with a draft model (Leviathan et al. 2023; Chen et al. 2023).

A small model drafts a chain. At temperatures above 0 the draft is drawn either with the target's
own noise at each position ("coupled": what both models rate alike comes out alike, and the text is
vanilla's), or independently and verified by speculative rejection sampling ("rejection", as
published). The draft model keeps its own KV cache up to the common prefix.

Shapes: V the target's vocabulary.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch

from model import checkpoint
from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.drafting import DraftForward, Drafting, alone
from model.engine.backends.cuda_graph import CudaGraph
from model.engine.cache import KVCache
from model.engine.chain import MOST_ROWS, Chain, ChainGraph
from model.engine.device.branch import can_branch
from model.engine.forward import Draw, Output, Segment, Wanted
from model.engine.model import Model
from model.engine.noise import DRAFTER, TARGET
from model.engine.sampling import noisy_argmax, processed
from model.errors import UserError, first_line
from model.memory import CacheSize, footprint
from model.network import load_config

CHUNK = 512
RECORDED_ROWS = 4
"""Tokens fed by recorded forwards: what a step leaves to catch up with. Prompts and long copies run
eagerly."""
CHAIN = 4
"""Steps of a graph that cannot branch, where a draft may end at any token: more would often be for
nothing."""
MOST_GROWTH = 4
"""The heuristic schedule lets drafts grow to so many times their first length."""


NEEDS_MODEL = "it drafts with a model of its own"


@dataclass(frozen=True)
class Config:
    sps_model: str = option("mini", "draft model: a folder, a hub id, or 'mini'", "--drafter-path")
    sps_tokens: int = option(
        20, "tokens drafted a step (with 'heuristic': at the start)", "--draft-tokens"
    )
    sps_schedule: str = option(
        "constant",
        "'constant', or 'heuristic': +2 after a full acceptance, else -1",
        "--draft-schedule",
    )
    sps_confidence: float = option(
        0.4,
        "stop after a token the draft model gives less than this; 0: never",
        "--draft-confidence",
    )
    sps_mode: str = option("coupled", "at temperature > 0: 'coupled' noise or 'rejection' sampling")

    def __post_init__(self) -> None:
        _check_one_of("--sps-schedule", self.sps_schedule, ("constant", "heuristic"))
        _check_one_of("--sps-mode", self.sps_mode, ("coupled", "rejection"))


def _check_one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{flag} is one of {', '.join(known)}, not '{value}'")


@dataclass(frozen=True)
class Feed:
    """Tokens of one text for the draft model, and how the token after the last is drawn."""

    segment: Segment
    draw: Draw | None


@dataclass
class Forwards:
    """The draft model's forwards: one for the texts of all sessions that want one."""

    model: Model
    recorded: KVCache | None = None
    """The cache over which graphs were recorded ahead."""
    chain: ChainGraph | None = None
    """Several steps of one text as one graph; None where steps are no CUDA graphs."""

    def run(self, feeds: list[Feed]) -> list[Output]:
        """What follows each text, logits [1, V]; several are left to be drawn from."""
        if len(feeds) == 1:
            wanted = Wanted(last_only=True, draw=feeds[0].draw, is_step=True)
            return [self.model.forward([feeds[0].segment], wanted)]
        output = self.model.forward([feed.segment for feed in feeds], Wanted(is_step=True))
        outputs, end = [], 0
        for feed in feeds:
            end += len(feed.segment)
            outputs.append(Output(output.logits[end - 1 : end]))
        return outputs


def recorded_chain(model: Model, most: int, config: Config) -> ChainGraph | None:
    """Chains of up to `most` tokens; where they may be shorter, they end on the device if they can.

    None where they cannot be recorded. Each way that cannot is a warning.
    """
    confidence = config.sps_confidence
    ways = [(ChainGraph(model, min(CHAIN, most) if confidence else most), "step by step")]
    if ends_early(config) and can_branch(model.device):
        ways.insert(0, (ChainGraph(model, most, confidence, branches=True), "without branches"))
    for chain, otherwise in ways:
        why = "gives other tokens than step by step"
        try:
            if chain.prepare():
                return chain
        except (torch.OutOfMemoryError, UserError):
            raise
        except Exception as error:  # Triton and CUDA raise types of their own
            why = f"cannot be recorded here ({type(error).__name__}: {first_line(error)})"
        warnings.warn(f"the draft model's chain {why}; going on {otherwise}", stacklevel=3)
    return None


class DraftModel:
    """A model with its own cache that follows a growing text.

    Rows beyond the common prefix with the text are recomputed.
    """

    def __init__(self, forwards: Forwards, slot: int = 0) -> None:
        self.model, self._forwards, self._slot = forwards.model, forwards, slot
        self._cached: list[int] = []
        self._agreeing = 0
        """So many cached rows are known to be the text's."""

    def start(self) -> None:
        """Another text."""
        self._cached, self._agreeing = [], 0

    def catch_up(self, text: list[int], draw: Draw | None = None) -> Drafting[Output]:
        """Feed what of `text` is not cached; the output is that after its last token."""
        self._forget_beyond(text)
        for begin in range(len(self._cached), len(text), CHUNK):
            output = yield from self.feed(text[begin : begin + CHUNK], draw)
        self._agreeing = len(text)
        return output

    def _forget_beyond(self, text: list[int]) -> None:
        """Cached rows that are not the text's."""
        # the last token is always fed: its logits are wanted
        limit = min(len(self._cached), len(text) - 1)
        same = min(self._agreeing, limit)
        while same < limit and self._cached[same] == text[same]:
            same += 1
        del self._cached[same:]

    def behind(self, text: list[int]) -> list[int]:
        """What of a text is to be fed by the next forward; a long rest is fed all but its end."""
        self._forget_beyond(text)
        left = text[len(self._cached) :]
        while len(left) > MOST_ROWS:
            chunk = left[: min(CHUNK, len(left) - MOST_ROWS)]
            segment = Segment.causal(self._slot, len(self._cached), chunk)
            self.model.forward([segment], Wanted(last_only=True))
            self._cached.extend(chunk)
            left = left[len(chunk) :]
        self._agreeing = len(text)
        return left

    def follow(
        self, graph: ChainGraph, tokens: list[int], temperature: float, keys: list[int], most: int
    ) -> Chain | None:
        """Feed tokens, and what follows them by one graph; None where it has no room for them."""
        segment = Segment.causal(self._slot, len(self._cached), tokens)
        if not graph.takes(segment):
            return None
        found = graph.step(segment, temperature, keys, most)
        self._cached += [*tokens, *found.tokens[:-1]]
        return found

    def feed(self, tokens: list[int], draw: Draw | None = None) -> Drafting[Output]:
        """More tokens: the output after the last one, logits [1, V]; its token drawn by `draw`.

        A prompt, or a long copy by another drafter, is fed by a forward of its own.
        """
        segment = Segment.causal(self._slot, len(self._cached), tokens)
        self._cached.extend(tokens)
        if len(tokens) > RECORDED_ROWS:
            return self.model.forward([segment], Wanted(last_only=True))
        if draw:  # only the last row's token is wanted
            draw = replace(draw, keys=[0] * (len(tokens) - 1) + list(draw.keys))
        output = yield DraftForward(Feed(segment, draw), self._forwards.run)
        return output


@dataclass(frozen=True)
class Drawn:
    """A drafted token, how likely the draft model found it, and in 'rejection' mode from what."""

    token: int
    probability: float
    distribution: torch.Tensor | None = None


def ends_early(config: Config) -> bool:
    """Are there drafts shorter than the longest one?"""
    return bool(config.sps_confidence) or config.sps_schedule == "heuristic"


class Sps(Drafter):
    def __init__(self, config: Config, draft_model: Model, vocab_size: int) -> None:
        self.config = config
        self._forwards = Forwards(draft_model)
        self.draft_model = DraftModel(self._forwards)
        self.vocab_size = vocab_size
        is_constant = config.sps_schedule == "constant"
        self._most = config.sps_tokens * (1 if is_constant else MOST_GROWTH)
        self._length = config.sps_tokens
        self._text: list[int] = []
        self._is_alone = True
        is_coupled = config.sps_mode == "coupled"  # else a draft carries its distribution
        self.needs = Needs(
            max_nodes=self._most + 1,
            gives_chances=is_coupled,
            carries_distribution=not is_coupled,
        )

    def forget(self) -> None:
        self._length = self.config.sps_tokens

    def session(self, slot: int = 0) -> Sps:
        """Sessions draft step by step, so that one forward serves all of them."""
        session = super().session(slot)
        session.draft_model = DraftModel(self._forwards, slot)
        session._is_alone = False
        return session

    def reserve(self, positions: int, sessions: int = 1) -> None:
        model = self.draft_model.model
        model.reserve(positions + self.needs.max_nodes + 1, sessions)
        if self._forwards.recorded is not model.cache:  # loading the model has made a cache already
            for draws in (False, True):
                model.prepare(RECORDED_ROWS, Wanted(), draws)
            self._forwards.chain = None
            if isinstance(model.backend, CudaGraph) and self._most > 1:
                self._forwards.chain = recorded_chain(model, self._most, self.config)
            self._forwards.recorded = model.cache

    def start(self, request: Request, prefill: Prefill) -> None:
        self._text = [*request.prompt_ids, prefill.first_token]
        self.reserve(len(request.prompt_ids) + request.max_new_tokens)
        self.draft_model.start()

    def propose(self, context: Context) -> Draft:
        return alone(self.drafting(context))

    def drafting(self, context: Context) -> Drafting[Draft]:
        most = self._longest(context)
        if most < 1:
            return Draft.only_root(context.root)
        chain = self._chained(context, most)
        if chain:
            return self._draft(context, chain)
        output = yield from self.draft_model.catch_up(self._text, self._draw(context, 0))
        while True:
            drawn = self._next_token(output, context, len(chain))
            chain.append(drawn)
            is_unsure = drawn.probability < self.config.sps_confidence
            if len(chain) == most or drawn.token in context.request.stop_ids or is_unsure:
                break
            draw = self._draw(context, len(chain))
            output = yield from self.draft_model.feed([drawn.token], draw)
        return self._draft(context, chain)

    def _chained(self, context: Context, most: int) -> list[Drawn]:
        """By graphs of several steps, cut where the draft ends; nothing where there are none."""
        graph = self._forwards.chain
        chain: list[Drawn] = []
        if graph is None or not self._is_alone or not self._forward_picks(context.request):
            return chain
        tokens = self.draft_model.behind(self._text)
        while len(chain) < most:
            first = context.emitted + len(chain)
            positions = list(range(first, first + graph.length))
            keys = context.noise.keys(positions) if context.request.temperature else []
            temperature, left = context.request.temperature, most - len(chain)
            found = self.draft_model.follow(graph, tokens, temperature, keys, left)
            if found is None:
                break
            for token, probability in zip(found.tokens, found.probabilities, strict=True):
                chain.append(Drawn(token, probability))
                is_unsure = probability < self.config.sps_confidence
                if len(chain) == most or token in context.request.stop_ids or is_unsure:
                    return chain
            tokens = [chain[-1].token]
        return chain

    def _draft(self, context: Context, chain: list[Drawn]) -> Draft:
        distributions = [d.distribution for d in chain if d.distribution is not None]
        return Draft.chain(
            context.root,
            [drawn.token for drawn in chain],
            "sps",
            probabilities=torch.stack(distributions) if distributions else None,
            chances=np.cumprod([drawn.probability for drawn in chain]).tolist(),
        )

    def observe(self, out: StepOut) -> None:
        self._text.extend(out.emitted)
        if self.config.sps_schedule == "heuristic" and out.draft.source == "sps":
            is_full = len(out.path) == out.draft.candidates
            longer, shorter = min(self._most, self._length + 2), max(1, self._length - 1)
            self._length = longer if is_full else shorter

    def _longest(self, context: Context) -> int:
        """Tokens that may be drafted now."""
        room = self.draft_model.model.max_positions - len(self._text)
        return min(self._length, context.max_nodes - 1, context.remaining - 1, room)

    def _draw(self, context: Context, depth: int) -> Draw | None:
        """How the draft model's own forward may draw: with the target's noise at this depth."""
        request = context.request
        if request.temperature == 0 or not self._forward_picks(request):
            return None
        return Draw(request.temperature, context.noise.keys([context.emitted + depth]))

    def _forward_picks(self, request: Request) -> bool:
        """Is the token that the forward itself would pick the one wanted?"""
        if self.draft_model.model.vocab_size != self.vocab_size:
            return False
        is_coupled = self.config.sps_mode == "coupled" and request.only_temperature
        return is_coupled or request.temperature == 0

    def _next_token(self, output: Output, context: Context, depth: int) -> Drawn:
        request = context.request
        scores = output.logits[0, : self.vocab_size]
        if request.temperature > 0:
            scores = processed(scores, request)
        distribution = None
        if output.picked is not None and self._forward_picks(request):
            picked = output.picked
            token = picked.drawn[0] if request.temperature else picked.argmax[0]
        elif request.temperature == 0:
            token = scores.argmax()
        else:
            is_rejection = self.config.sps_mode == "rejection"
            stream = DRAFTER if is_rejection else TARGET
            position = context.emitted + depth
            noise = context.noise.exponential([position], len(scores), scores.device, stream)
            token = noisy_argmax(scores, noise[0])
            distribution = scores.softmax(-1) if is_rejection else None
        if not self.config.sps_confidence:
            return Drawn(int(token), 1.0, distribution)
        # gather: an index would be read on the host; token and probability in one transfer
        probability = scores.float().log_softmax(-1).gather(0, token.view(1))[0].exp()
        number, likelihood = torch.stack([token.double(), probability.double()]).tolist()
        return Drawn(int(number), likelihood, distribution)


def held_bytes(config: Config, size: CacheSize) -> int:
    """Of the draft model and its cache."""
    path = checkpoint.resolve(config.sps_model, part="draft")
    return footprint(load_config(path), size.dtype).total(size.positions, size.sequences)


def build(config: Config, model: Model) -> Drafter:
    path = checkpoint.resolve(config.sps_model, part="draft")
    dtype = str(model.dtype).removeprefix("torch.")
    draft_model = checkpoint.load_model(path, dtype, str(model.device), engine=model.engine)
    is_same = draft_model.config.vocab_size == model.config.vocab_size
    if is_same and model.path:
        is_same = checkpoint.tokenizer_hash(path) == checkpoint.tokenizer_hash(model.path)
    if not is_same:
        raise UserError(
            f"draft model {config.sps_model} has another vocabulary than the target; SpS needs the"
            " same tokenizer, as Qwen3-0.6B is for Qwen3-8B"
        )
    return Sps(config, draft_model, model.vocab_size)
