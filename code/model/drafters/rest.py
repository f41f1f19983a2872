"""REST (He et al. 2023): look the longest suffix of the context up in a datastore, draft its commonest continuations.

Suffixes of 16 down to 2 tokens; up to 5,000 occurrences, evenly spread over the matches; the prefixes of their
continuations that occur most often become the tree (ties: shorter first, then smaller tokens). The datastore is
built with `python -m training.datastore` and must carry the target's tokenizer.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.checkpoint import MINI, open_for, tokenizer_hash
from model.draft import Context, Draft, Drafter, Needs, Prefill, Request, StepOut, option
from model.engine.target import Target
from model.errors import UserError
from model.index.suffix_array import SuffixArray


@dataclass(frozen=True)
class Config:
    datastore_path: str = option("mini", "datastore file, or 'mini' for the family's own")
    num_draft: int = option(64, "nodes of a draft, the root not counted")
    max_token_span: int = option(16, "longest suffix looked up")
    rest_hits: int = option(5000, "most occurrences read for a lookup")
    rest_length: int = option(10, "tokens of a continuation")
    rest_cut: str = option("count", "'count': most frequent prefixes; 'upstream': the published cut")


class Rest(Drafter):
    def __init__(self, config: Config, store: SuffixArray) -> None:
        self.config, self.store = config, store
        self.needs = Needs(max_nodes=config.num_draft + 1)
        self._recent: list[int] = []

    def start(self, request: Request, prefill: Prefill) -> None:
        self._recent = [*request.prompt_ids, prefill.first_token][-self.config.max_token_span:]

    def propose(self, context: Context) -> Draft:
        c = self.config
        length, first, last = self.store.longest_range(self._recent, c.max_token_span, shortest=2)
        if not length:
            return Draft.only_root(context.root)
        rows = self.store.continuations(first, last, length, c.rest_length, c.rest_hits)
        room = min(c.num_draft, context.max_nodes - 1)
        tokens, parents = upstream_tree(rows, room) if c.rest_cut == "upstream" else frequent_tree(rows, room)
        return Draft([context.root, *tokens], [-1, *parents], len(tokens) + 1, "rest" if tokens else "none")

    def observe(self, out: StepOut) -> None:
        self._recent = [*self._recent, *out.emitted][-self.config.max_token_span:]


def prefixes(rows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The trie of sorted rows as nodes (depth, row it begins at, count, parent node or -1), level by level.

    Equal prefixes stand together in sorted rows, so a node is a run of rows. Only nodes that can be among the `most`
    commonest are followed: deeper ones are never commoner than their parents.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    changed = np.zeros(len(rows), dtype=bool)
    changed[:1] = True
    above, offset = np.full(len(rows), -1), 0  # node of each row's prefix so far
    for depth in range(rows.shape[1]):
        column = rows[:, depth]
        changed[1:] |= column[1:] != column[:-1]
        starts = np.flatnonzero(changed)
        counts = np.diff(np.append(starts, len(rows)))
        keep = column[starts] >= 0
        if depth:
            keep &= above[starts] >= 0
        if keep.sum() > most:
            keep &= counts >= np.partition(counts[keep], -most)[-most]
        if not keep.any():
            break
        numbers = np.full(len(starts), -1)
        numbers[keep] = offset + np.arange(keep.sum())
        found.append((np.full(keep.sum(), depth + 1), starts[keep], counts[keep], above[starts[keep]]))
        above = np.repeat(numbers, counts)
        offset += keep.sum()
    if not found:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, empty, empty
    return tuple(np.concatenate(parts) for parts in zip(*found))  # type: ignore[return-value]


def frequent_tree(rows: np.ndarray, room: int) -> tuple[list[int], list[int]]:
    """(tokens, parents) of the `room` commonest prefixes; parents count the root as 0. Rows must be sorted."""
    depth, start, count, parent = prefixes(rows, room)
    # starts of equal depth grow with the prefix, so they order ties by smaller tokens
    order = np.lexsort((start, depth, -count))[:room]
    number = np.full(len(depth) + 1, 0)
    number[order] = np.arange(1, len(order) + 1)
    return rows[start[order], depth[order] - 1].tolist(), number[parent[order]].tolist()


def upstream_tree(rows: np.ndarray, room: int) -> tuple[list[int], list[int]]:
    """The published cut: of the 64 commonest prefixes drop those with most distinct tokens until these sum to 64."""
    depth, start, count, _ = prefixes(rows, 64)
    order = np.lexsort((start, depth, -count))[:64]
    kept = [tuple(rows[start[i], :depth[i]].tolist()) for i in order]
    kept.sort(key=lambda prefix: -len(set(prefix)))
    total = sum(len(set(prefix)) for prefix in kept)
    while kept and total > 64:
        total -= len(set(kept.pop(0)))
    nodes = sorted({prefix[:n] for prefix in kept for n in range(1, len(prefix) + 1)}, key=lambda p: (len(p), p))[:room]
    number = {prefix: i for i, prefix in enumerate([(), *nodes])}
    return [prefix[-1] for prefix in nodes], [number[prefix[:-1]] for prefix in nodes]


def build(config: Config, host: Target) -> Drafter:
    if config.rest_cut not in ("count", "upstream"):
        raise UserError(f"--rest-cut is 'count' or 'upstream', not '{config.rest_cut}'")
    file = MINI / "rest.datastore" if config.datastore_path == "mini" else Path(config.datastore_path)
    store = open_for(file, host.vocab_size, tokenizer_hash(host.path))
    return Rest(config, store)
