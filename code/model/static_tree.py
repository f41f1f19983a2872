"""A static tree: which of a node's likeliest tokens a draft follows, fixed before the run.

What Token Recycling and STAND draft along. A node is named by its path: the ranks from the root to
it. A tree can be kept in a file, JSON:

    {"nodes": [{"ranks": [0], "accepted": 0.71}, {"ranks": [0, 0], "accepted": 0.5}]}

`accepted` is the share of steps that accepted the node where the tree was fitted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as File
from typing import Any

import numpy as np

from model.errors import UserError

Path = tuple[int, ...]


@dataclass(frozen=True)
class StaticTree:
    """The nodes of a tree, root first, likeliest first: any first nodes of it are a tree too."""

    parents: tuple[int, ...]
    """Of every node; -1 for the root."""
    ranks: tuple[int, ...]
    """Which child of its parent a node is, the likeliest being 0."""
    depths: tuple[int, ...]
    chances: tuple[float, ...]
    """That a step accepts the node; 1 for the root."""

    @classmethod
    def of(cls, chances: Mapping[Path, float]) -> StaticTree:
        """The tree of these paths below the root.

        Raises ValueError for a path whose parent is missing or less likely than itself.
        """
        paths = sorted(chances, key=lambda path: (-chances[path], len(path), path))
        number: dict[Path, int] = {(): 0}
        for node, path in enumerate(paths, 1):
            if path[:-1] not in number:
                raise ValueError(f"node {list(path)} comes before its parent")
            number[path] = node
        return cls(
            parents=(-1, *(number[path[:-1]] for path in paths)),
            ranks=(0, *(path[-1] for path in paths)),
            depths=(0, *(len(path) for path in paths)),
            chances=(1.0, *(chances[path] for path in paths)),
        )

    def __len__(self) -> int:
        """Nodes, root included."""
        return len(self.parents)

    def paths(self) -> list[Path]:
        """Of every node, the root's being empty."""
        paths: list[Path] = [()]
        for node in range(1, len(self)):
            paths.append((*paths[self.parents[node]], self.ranks[node]))
        return paths

    def first(self, nodes: int) -> StaticTree:
        """The tree of the first `nodes` nodes, root included."""
        return StaticTree(
            self.parents[:nodes], self.ranks[:nodes], self.depths[:nodes], self.chances[:nodes]
        )

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parents, ranks and depths, int32 [N] each, for compiled code."""
        return (
            np.array(self.parents, dtype=np.int32),
            np.array(self.ranks, dtype=np.int32),
            np.array(self.depths, dtype=np.int32),
        )

    def text(self) -> str:
        """As a file holds it: JSON, a node a line."""
        lines = []
        for path, chance in zip(self.paths()[1:], self.chances[1:], strict=True):
            lines.append(json.dumps({"ranks": list(path), "accepted": round(chance, 6)}))
        return '{"nodes": [\n' + ",\n".join(lines) + "\n]}\n"

    @classmethod
    def read(cls, file: File, ranks: int) -> StaticTree:
        """From a JSON file; `ranks` children of a node can be told apart.

        Raises UserError where the file is missing or holds no such tree.
        """
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            chances = dict(_nodes(data, ranks))
            if not chances:
                raise ValueError("it has no nodes")
            return cls.of(chances)
        except OSError as error:
            reason = error.strerror or str(error)
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{file} is no file of a static tree ({reason}); make one with"
            " python -m evaluation.fit_tree RECORDS --out FILE"
        )


def _nodes(data: Any, ranks: int) -> Iterator[tuple[Path, float]]:
    """The paths and shares of a file's nodes; raises ValueError for damaged ones."""
    seen: set[Path] = set()
    for node in data["nodes"]:
        path = tuple(node["ranks"])
        accepted = float(node["accepted"])
        if not path or not all(isinstance(r, int) and 0 <= r < ranks for r in path):
            raise ValueError(f"ranks {node['ranks']}: one or more of 0 to {ranks - 1} are expected")
        if not 0 <= accepted <= 1:
            raise ValueError(f"accepted {accepted} of {node['ranks']} is no share from 0 to 1")
        if path in seen:
            raise ValueError(f"{node['ranks']} is there twice")
        seen.add(path)
        yield path, accepted
