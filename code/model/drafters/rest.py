"""REST (He et al. 2023): look the longest suffix up in a datastore, draft its continuations.

Suffixes of 16 down to 2 tokens; up to 5,000 occurrences, evenly spread over the matches; the
prefixes of their continuations that occur most often become the tree (ties: shorter first, then
smaller tokens). The datastore is built with `python -m training.datastore` and must carry the
target's tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.checkpoint import open_datastore
from model.contract import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.model import Model
from model.errors import UserError
from model.index.suffix_array import SuffixArray

REPLAY_NEEDS = "a datastore"

SHORTEST = 2
"""Tokens of the shortest suffix looked up."""
PUBLISHED_NODES = 64
"""The published cut works on so many prefixes, and keeps trees of so many nodes."""


@dataclass(frozen=True)
class Config:
    rest_datastore: str = option(
        "mini", "datastore file, or 'mini' for the family's own", "--datastore-path"
    )
    rest_nodes: int = option(64, "nodes of a draft, the root not counted", "--num-draft")
    rest_span: int = option(16, "longest suffix looked up", "--max-token-span")
    rest_hits: int = option(5000, "most occurrences read for a lookup")
    rest_length: int = option(10, "tokens of a continuation")
    rest_cut: str = option("count", "'count': most frequent prefixes; 'upstream': as published")

    def __post_init__(self) -> None:
        if self.rest_cut not in ("count", "upstream"):
            raise UserError(f"--rest-cut is 'count' or 'upstream', not '{self.rest_cut}'")


@dataclass(frozen=True)
class Prefixes:
    """The trie of sorted rows as nodes, level by level; one entry a node in every array."""

    depth: np.ndarray
    start: np.ndarray
    """The first row that begins with this prefix."""
    count: np.ndarray
    """How many rows do."""
    parent: np.ndarray
    """The node of the prefix one token shorter, -1 for the root."""

    def __len__(self) -> int:
        return len(self.depth)

    def commonest(self, most: int) -> np.ndarray:
        """Node numbers of the commonest prefixes; ties: shorter first, then smaller tokens.

        Starts of equal depth grow with the prefix, so they order ties by smaller tokens.
        """
        return np.lexsort((self.start, self.depth, -self.count))[:most]


class Rest(Drafter):
    def __init__(self, config: Config, store: SuffixArray) -> None:
        self.config, self.store = config, store
        self.needs = Needs(max_nodes=config.rest_nodes + 1)
        self._recent: list[int] = []

    def start(self, request: Request, prefill: Prefill) -> None:
        self._recent = [*request.prompt_ids, prefill.first_token][-self.config.rest_span :]

    def propose(self, context: Context) -> Draft:
        c = self.config
        match = self.store.longest_match(self._recent, c.rest_span, SHORTEST)
        if not match:
            return Draft.only_root(context.root)
        rows = self.store.continuations(match, c.rest_length, c.rest_hits)
        room = min(c.rest_nodes, context.max_nodes - 1)
        make_tree = upstream_tree if c.rest_cut == "upstream" else frequent_tree
        tokens, parents = make_tree(rows, room)
        return Draft.tree(context.root, tokens, parents, "rest")

    def observe(self, out: StepOut) -> None:
        self._recent = [*self._recent, *out.emitted][-self.config.rest_span :]


def prefixes(rows: np.ndarray, most: int) -> Prefixes:
    """The trie of sorted rows [hits, length]; -1 stands past a document's end.

    Equal prefixes stand together in sorted rows, so a node is a run of rows. Only nodes that can be
    among the `most` commonest are followed: deeper ones are never commoner than their parents.
    """
    levels: list[Prefixes] = []
    changed = np.zeros(len(rows), dtype=bool)
    changed[:1] = True
    node_of_row = np.full(len(rows), -1)
    nodes = 0
    for depth in range(rows.shape[1]):
        column = rows[:, depth]
        changed[1:] |= column[1:] != column[:-1]
        starts = np.flatnonzero(changed)
        counts = np.diff(np.append(starts, len(rows)))
        keep = column[starts] >= 0
        if depth:
            keep &= node_of_row[starts] >= 0
        if keep.sum() > most:
            keep &= counts >= np.partition(counts[keep], -most)[-most]
        kept = int(keep.sum())
        if not kept:
            break
        level = Prefixes(
            depth=np.full(kept, depth + 1),
            start=starts[keep],
            count=counts[keep],
            parent=node_of_row[starts[keep]],
        )
        levels.append(level)
        numbers = np.full(len(starts), -1)
        numbers[keep] = nodes + np.arange(kept)
        node_of_row = np.repeat(numbers, counts)
        nodes += kept
    return _joined(levels)


def _joined(levels: list[Prefixes]) -> Prefixes:
    empty = np.zeros(0, dtype=np.int64)
    return Prefixes(
        depth=np.concatenate([empty, *(level.depth for level in levels)]),
        start=np.concatenate([empty, *(level.start for level in levels)]),
        count=np.concatenate([empty, *(level.count for level in levels)]),
        parent=np.concatenate([empty, *(level.parent for level in levels)]),
    )


def frequent_tree(rows: np.ndarray, room: int) -> tuple[list[int], list[int]]:
    """(tokens, parents) of the `room` commonest prefixes of sorted rows; parents count the root."""
    trie = prefixes(rows, room)
    order = trie.commonest(room)
    number = np.full(len(trie) + 1, 0)  # the last entry stands for the root's number, 0
    number[order] = np.arange(1, len(order) + 1)
    tokens = rows[trie.start[order], trie.depth[order] - 1]
    parents = number[trie.parent[order]]
    return tokens.tolist(), parents.tolist()


def upstream_tree(rows: np.ndarray, room: int) -> tuple[list[int], list[int]]:
    """The published cut.

    Of the 64 commonest prefixes those with most distinct tokens are dropped until these sum to 64.
    """
    trie = prefixes(rows, PUBLISHED_NODES)
    kept: list[tuple[int, ...]] = []
    for node in trie.commonest(PUBLISHED_NODES):
        kept.append(tuple(rows[trie.start[node], : trie.depth[node]].tolist()))
    kept.sort(key=lambda prefix: -len(set(prefix)))
    distinct = sum(len(set(prefix)) for prefix in kept)
    while kept and distinct > PUBLISHED_NODES:
        distinct -= len(set(kept.pop(0)))
    nodes = set()
    for prefix in kept:
        for length in range(1, len(prefix) + 1):
            nodes.add(prefix[:length])
    ordered = sorted(nodes, key=lambda prefix: (len(prefix), prefix))[:room]
    number = {prefix: node for node, prefix in enumerate([(), *ordered])}
    tokens = [prefix[-1] for prefix in ordered]
    parents = [number[prefix[:-1]] for prefix in ordered]
    return tokens, parents


def build(config: Config, model: Model) -> Drafter:
    return Rest(config, open_datastore(config.rest_datastore, model))
