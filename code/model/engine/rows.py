"""The rows of a step, shared out among the drafts of several texts."""

from __future__ import annotations

from collections.abc import Sequence

from model.contract import Draft, Needs


def nodes_for_each(needs: Needs, max_rows: int, texts: int) -> int:
    """Most nodes of each draft: an equal share of the rows.

    Where chances tell which nodes are worth more, all rows but the others' roots: `likeliest`
    shares them out afterwards.
    """
    share = max_rows - texts + 1 if needs.gives_chances else max_rows // texts
    return min(needs.max_nodes, max(1, share))


def likeliest(drafts: Sequence[Draft], max_rows: int) -> list[Draft]:
    """The drafts cut to `max_rows` rows in all: every root, and the likeliest nodes of all of them.

    Every node has its chance of being emitted, which is at most its parent's. Of equally likely
    ones those closer to their root are kept.
    """
    room = max(0, max_rows - len(drafts))
    if sum(len(draft.tokens) - 1 for draft in drafts) <= room:
        return list(drafts)
    nodes = []
    for which, draft in enumerate(drafts):
        depths = draft.depths()
        for node, chance in enumerate(draft.chances, 1):
            nodes.append((-chance, depths[node], which, node))
    nodes.sort()
    kept: list[list[int]] = [[] for _ in drafts]
    for _, _, which, node in nodes[:room]:
        kept[which].append(node)
    return [draft.with_only(sorted(own)) for draft, own in zip(drafts, kept, strict=True)]
