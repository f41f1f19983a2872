"""Lookahead Decoding (Fu et al. 2024): Jacobi windows fill a pool of n-grams, which are verified in the same forward.

Beside the candidates every forward computes N-1 levels of W future tokens. Their argmax are the next level, and the
diagonals are n-grams of N tokens for the pool; the pool's n-grams that begin with the root are the draft. The window
moves by exactly one a step; with fewer than five nodes a draft it does not fit, and nothing is drafted. Defaults as in
the paper's README and the published benchmark: 5, 7, 7.
"""

from dataclasses import dataclass
from random import Random

import numpy as np

from model.draft import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.target import Target
from model.errors import UserError


@dataclass(frozen=True)
class Config:
    level: int = option(5, "n-gram length N of lookahead")
    window: int = option(7, "columns W of the window")
    guess: int = option(7, "n-grams kept and verified for a token")

    def __post_init__(self) -> None:
        if self.level < 3 or self.window < 2 or self.guess < 1:
            raise UserError("lookahead needs --level of at least 3, --window of at least 2 and --guess of at least 1")


def extra_nodes(level: int, window: int) -> int:
    """Nodes of a full window."""
    return (window - 1) + (level - 2) * window


def fitted(level: int, window: int, max_nodes: int) -> tuple[int, int]:
    """(level, window) shrunk until the window takes at most three fifths of the nodes; at least (3, 2)."""
    while extra_nodes(level, window) > 0.6 * max_nodes and (level, window) != (3, 2):
        if window > 3:
            window -= 1
        elif level > 3:
            level -= 1
        else:
            window = 2
    return level, window


class Lookahead(Drafter):
    def __init__(self, config: Config) -> None:
        self.config = config
        nodes = 1 + extra_nodes(config.level, config.window) + config.guess * (config.level - 1)
        self.needs = Needs(max_nodes=max(nodes, config.window + config.level))
        self.forget()

    def forget(self) -> None:
        self.levels: list[list[int]] = []
        self.pool: dict[int, dict[tuple[int, ...], None]] = {}
        self._size = (0, 0)

    def start(self, request: Request, prefill: Prefill) -> None:
        self.levels, self._size = [], (0, 0)
        if self.scope == "request":
            self.pool = {}
        self._random = Random(f"{request.seed}/{request.question_id}/{request.sample}/{request.round}")
        self._prompt, self._stops = request.prompt_ids, request.stop_ids

    def propose(self, context: Context) -> Draft:
        if not self.levels:
            self._size = fitted(self.config.level, self.config.window, context.max_nodes)
            level, window = self._size
            self.levels = [[self._random.choice(self._prompt) for _ in range(window + level - 3)]]
        extras = [t for tokens in self.levels for t in tokens]
        if len(extras) >= context.max_nodes:
            extras = []
        tokens, parents = self._candidates(context, context.max_nodes - len(extras))
        source = "lookahead" if len(tokens) > 1 else "none"
        if not extras:
            return Draft(tokens, parents, len(tokens), source)
        mask, positions = self._window_layout(len(tokens))
        return Draft(tokens + extras, parents + [0] * len(extras), len(tokens), source, mask, positions)

    def observe(self, out: StepOut) -> None:
        if not out.extra_argmax:
            return
        stop = self._stop_free
        level, window = self._size
        last = len(self.levels[-1])
        predicted = [stop(t) for t in out.extra_argmax[-last:]]
        if len(self.levels) < level - 1:
            self.levels = [tokens[1:] for tokens in self.levels]
            self.levels.append(predicted if len(self.levels) == 1 else predicted[1:])
            return
        keys = [out.draft.tokens[0], *self.levels[0]]
        for c in range(window):
            gram = (*(tokens[c] for tokens in self.levels[1:]), predicted[c])
            self._remember(keys[c], gram)
        self.levels = [self.levels[1][1:] if level > 2 else predicted[1:], *self.levels[2:], predicted]

    def _remember(self, key: int, gram: tuple[int, ...]) -> None:
        """The pool keeps a token's `guess` most recently seen n-grams."""
        grams = self.pool.setdefault(key, {})
        grams.pop(gram, None)
        grams[gram] = None
        if len(grams) > self.config.guess:
            del grams[next(iter(grams))]

    def _candidates(self, context: Context, room: int) -> tuple[list[int], list[int]]:
        """A trie of the pool's n-grams for the root, the most recent first, within `room` nodes."""
        tokens, parents, children = [context.root], [-1], {}
        stop_ids = context.request.stop_ids
        for gram in reversed(self.pool.get(context.root, {})):
            node = 0
            for token in gram:
                child = children.get((node, token))
                if child is None:
                    if len(tokens) >= room:
                        break
                    child = children[node, token] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                node = child
                if token in stop_ids:
                    break
        return tokens, parents

    def _window_layout(self, candidates: int) -> tuple[np.ndarray, list[int]]:
        """Mask [extras, nodes] and positions after the root of the window's nodes.

        Level 0 holds columns 1.., the others columns 0..; a node of column c sees the root, level 0 up to column c,
        and the levels from 1 to its own at its column.
        """
        cells = [(0, c + 1) for c in range(len(self.levels[0]))]
        cells += [(i, c) for i, tokens in enumerate(self.levels[1:], 1) for c in range(len(tokens))]
        row, column = (np.array(x) for x in zip(*cells))
        sees = (row[None] == 0) & (column[None] <= column[:, None])
        sees |= (row[None] > 0) & (row[None] <= row[:, None]) & (column[None] == column[:, None])
        mask = np.zeros((len(cells), candidates + len(cells)), dtype=bool)
        mask[:, 0] = True
        mask[:, candidates:] = sees
        return mask, (row + column).tolist()

    def _stop_free(self, token: int) -> int:
        """A stop id in the window would only predict what follows an end: a prompt token takes its place."""
        return self._random.choice(self._prompt) if token in self._stops else token


def build(config: Config, host: Target) -> Drafter:
    return Lookahead(config)
