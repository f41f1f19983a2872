"""Lookahead Decoding (Fu et al. 2024): Jacobi windows fill a pool of n-grams, verified in the same
forward.

Beside the candidates every forward computes N-1 levels of W future tokens. Their argmax are the
next level, and the diagonals are n-grams of N tokens for the pool; the pool's n-grams that begin
with the root are the draft. The window moves by exactly one a step; with fewer than five nodes a
draft it does not fit, and nothing is drafted. Defaults as in the paper's README and the published
benchmark: 5, 7, 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.model import Model
from model.errors import UserError

WINDOW_SHARE = 0.6
"""Most of a draft's nodes that the window may take."""


NEEDS_MODEL = "its window asks the target what follows tokens that were never emitted"


@dataclass(frozen=True)
class Config:
    lookahead_level: int = option(5, "n-gram length N of lookahead", "--level")
    lookahead_window: int = option(7, "columns W of the window", "--window")
    lookahead_guess: int = option(7, "n-grams kept and verified for a token", "--guess")

    def __post_init__(self) -> None:
        if self.lookahead_level < 3 or self.lookahead_window < 2 or self.lookahead_guess < 1:
            raise UserError(
                "lookahead needs --lookahead-level of at least 3, --lookahead-window of at least 2"
                " and --lookahead-guess of at least 1"
            )


@dataclass(frozen=True)
class WindowSize:
    """N levels and W columns."""

    level: int
    window: int

    @property
    def extra_nodes(self) -> int:
        """Nodes of a full window."""
        return (self.window - 1) + (self.level - 2) * self.window

    def fitted(self, max_nodes: int) -> WindowSize:
        """Shrunk until the window takes its share of the nodes at most; at least (3, 2)."""
        level, window = self.level, self.window
        while (level, window) != (3, 2):
            if WindowSize(level, window).extra_nodes <= WINDOW_SHARE * max_nodes:
                break
            if window > 3:
                window -= 1
            elif level > 3:
                level -= 1
            else:
                window = 2
        return WindowSize(level, window)


class Lookahead(Drafter):
    def __init__(self, config: Config) -> None:
        self.config = config
        self._full = WindowSize(config.lookahead_level, config.lookahead_window)
        candidates = 1 + config.lookahead_guess * (self._full.level - 1)
        smallest = self._full.window + self._full.level
        self.needs = Needs(max_nodes=max(self._full.extra_nodes + candidates, smallest))
        self.forget()

    def forget(self) -> None:
        self.levels: list[list[int]] = []
        """The window's tokens by level; level 0 holds columns 1.., the others columns 0.."""
        self.pool: dict[int, dict[tuple[int, ...], None]] = {}
        """For a token the n-grams that followed it, the most recent last."""
        self._size = self._full

    def start(self, request: Request, prefill: Prefill) -> None:
        self.levels = []
        if self.scope == "request":
            self.pool = {}
        identity = f"{request.seed}/{request.question_id}/{request.sample}/{request.round}"
        self._random = Random(identity)
        self._prompt, self._stop_ids = request.prompt_ids, request.stop_ids

    def propose(self, context: Context) -> Draft:
        if not self.levels:
            self._size = self._full.fitted(context.max_nodes)
            columns = self._size.window + self._size.level - 3
            self.levels = [[self._random.choice(self._prompt) for _ in range(columns)]]
        window = [token for level in self.levels for token in level]
        if len(window) >= context.max_nodes:
            window = []
        tokens, parents = self._candidates(context, context.max_nodes - len(window))
        candidates = len(tokens)
        source = "lookahead" if candidates > 1 else "none"
        if not window:
            return Draft(tokens, parents, candidates, source)
        mask, positions = self._window_layout(candidates)
        parents_of_window = [0] * len(window)
        return Draft(
            tokens + window, parents + parents_of_window, candidates, source, mask, positions
        )

    def observe(self, out: StepOut) -> None:
        if not out.extra_argmax:
            return
        last_level = out.extra_argmax[-len(self.levels[-1]) :]
        predicted = [self._without_stop(token) for token in last_level]
        if len(self.levels) < self._size.level - 1:
            self._fill(predicted)
        else:
            self._collect(out.draft.tokens[0], predicted)

    def _fill(self, predicted: list[int]) -> None:
        """While the window has fewer levels than it will: what was predicted is one more."""
        is_first = len(self.levels) == 1
        self.levels = [level[1:] for level in self.levels]
        self.levels.append(predicted if is_first else predicted[1:])

    def _collect(self, root: int, predicted: list[int]) -> None:
        """Take the diagonals into the pool, and move the window by one."""
        starts = [root, *self.levels[0]]
        for column in range(self._size.window):
            diagonal = [level[column] for level in self.levels[1:]]
            self._remember(starts[column], (*diagonal, predicted[column]))
        first = self.levels[1] if self._size.level > 2 else predicted
        self.levels = [first[1:], *self.levels[2:], predicted]

    def _remember(self, token: int, gram: tuple[int, ...]) -> None:
        """The pool keeps a token's `lookahead_guess` most recently seen n-grams."""
        grams = self.pool.setdefault(token, {})
        grams.pop(gram, None)
        grams[gram] = None
        if len(grams) > self.config.lookahead_guess:
            del grams[next(iter(grams))]

    def _candidates(self, context: Context, room: int) -> tuple[list[int], list[int]]:
        """A trie of the pool's n-grams for the root, the most recent first: (tokens, parents)."""
        tokens, parents = [context.root], [-1]
        child_of: dict[tuple[int, int], int] = {}
        for gram in reversed(self.pool.get(context.root, {})):
            node = 0
            for token in gram:
                if (node, token) not in child_of:
                    if len(tokens) >= room:
                        break
                    child_of[node, token] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                node = child_of[node, token]
                if token in context.request.stop_ids:
                    break
        return tokens, parents

    def _window_layout(self, candidates: int) -> tuple[np.ndarray, list[int]]:
        """Mask [window, nodes] and positions after the root of the window's nodes.

        A node of column c sees the root, level 0 up to column c, and the levels from 1 to its own
        at its column.
        """
        cells = [(0, column + 1) for column in range(len(self.levels[0]))]
        for i, level in enumerate(self.levels[1:], 1):
            cells += [(i, column) for column in range(len(level))]
        level_of, column_of = (np.array(coordinate) for coordinate in zip(*cells, strict=True))
        sees_first = (level_of[None] == 0) & (column_of[None] <= column_of[:, None])
        sees_column = (level_of[None] > 0) & (level_of[None] <= level_of[:, None])
        sees_column &= column_of[None] == column_of[:, None]
        mask = np.zeros((len(cells), candidates + len(cells)), dtype=bool)
        mask[:, 0] = True
        mask[:, candidates:] = sees_first | sees_column
        return mask, (level_of + column_of).tolist()

    def _without_stop(self, token: int) -> int:
        """A stop id would only predict what follows an end: a prompt token in its place."""
        return self._random.choice(self._prompt) if token in self._stop_ids else token


def build(config: Config, model: Model) -> Drafter:
    return Lookahead(config)
