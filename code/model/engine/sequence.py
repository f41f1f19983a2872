"""One generation under way: its tokens and the rules that end it, its cache rows, its trace."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.contract import Request
from model.engine.noise import PositionNoise


class Emission:
    """The emitted tokens, and what ends them: stop ids, token budget, forced end of thinking."""

    def __init__(self, request: Request) -> None:
        self.ids: list[int] = []
        self.forced = 0
        """How many of `ids` were forced in place of the target's own."""
        self.reason = ""
        """'stop' or 'length' once finished, 'unneeded' where whoever asked called it off."""
        self._request = request
        self._pending: list[int] = []
        """Forced tokens still to come."""
        self._thinking = request.forcing is not None

    @property
    def finished(self) -> bool:
        return bool(self.reason)

    def call_off(self) -> None:
        """It is no longer needed: it ends where it is."""
        self.reason = "unneeded"

    def emit(self, target_token: int) -> int:
        """Emit the target's own token, or the forced one in its place; returns what was emitted."""
        token = self._forced_or(target_token)
        self.ids.append(token)
        if token in self._request.stop_ids:
            self.reason = "stop"
        elif len(self.ids) >= self._request.max_new_tokens:
            self.reason = "length"
        return token

    def _forced_or(self, target_token: int) -> int:
        forcing = self._request.forcing
        if forcing and self._thinking and len(self.ids) >= forcing.after:
            self._pending, self._thinking = list(forcing.ids), False
        if self._pending:
            self.forced += 1
            return self._pending.pop(0)
        if forcing and target_token == forcing.end_id:
            self._thinking = False
        return target_token


@dataclass
class Sequence:
    """A generation under way: cache slot, cached length, emission, and one trace entry a step."""

    request: Request
    slot: int = 0
    cached: int = 0
    """Rows in the cache: prompt and emitted tokens, but for the last one, the root."""
    emission: Emission = field(init=False)
    noise: PositionNoise = field(init=False)
    accept_lengths: list[int] = field(default_factory=list)
    """Tokens emitted a step, the bonus included."""
    draft_lengths: list[int] = field(default_factory=list)
    """Candidates drafted a step, the root not counted."""
    sources: list[str] = field(default_factory=list)
    """Who drafted."""

    def __post_init__(self) -> None:
        self.emission = Emission(self.request)
        self.noise = PositionNoise.of(self.request)

    @property
    def ids(self) -> list[int]:
        return self.emission.ids

    @property
    def finished(self) -> bool:
        return self.emission.finished


@dataclass
class Times:
    """Seconds a generation spent in each phase."""

    prefill: float = 0.0
    draft: float = 0.0
    """Proposing and learning."""
    verify: float = 0.0
    """From the forward's launch until its tokens are read."""
    accept: float = 0.0
    """The walk and the kept cache rows."""
    wall: float = 0.0

    def share(self, generations: int) -> Times:
        """One generation's share of the times of a group of so many."""
        return Times(
            prefill=self.prefill / generations,
            draft=self.draft / generations,
            verify=self.verify / generations,
            accept=self.accept / generations,
            wall=self.wall / generations,
        )

    @property
    def other(self) -> float:
        return max(0.0, self.wall - self.prefill - self.draft - self.verify - self.accept)


@dataclass(frozen=True)
class Generation:
    """A finished generation: what was emitted, why it ended, and its trace (one entry a step)."""

    output_ids: list[int]
    finish_reason: str
    forced_tokens: int
    accept_lengths: list[int]
    draft_lengths: list[int]
    sources: list[str]
    times: Times
    """Its own, or of a generation made with others an equal share of the group's: the sum over a
    group is the group's time, once."""
    latency: float
    """Seconds from the group's beginning to this generation's end."""
    batch: int = 1
    """How many generations were made together, this one among them."""

    @classmethod
    def of(cls, sequence: Sequence, times: Times, latency: float, batch: int = 1) -> Generation:
        return cls(
            output_ids=list(sequence.ids),
            finish_reason=sequence.emission.reason,
            forced_tokens=sequence.emission.forced,
            accept_lengths=sequence.accept_lengths,
            draft_lengths=sequence.draft_lengths,
            sources=sequence.sources,
            times=times,
            latency=latency,
            batch=batch,
        )
