"""A trie of what followed every token, with input and output frequencies: the memory of PIA (Zhao
et al. 2024).

For every token a trie of the up to `length` tokens that came after it. Frequencies of prompts
("input") hold for the current request only, those of outputs until the trie is pruned."""

import heapq
from collections.abc import Sequence
from itertools import count


class Node:
    """Frequencies and children; `input` counts only where `request` is the current one."""

    __slots__ = ("children", "input", "output", "request")

    def __init__(self) -> None:
        self.children: dict[int, Node] = {}
        self.input = 0.0
        self.output = 0.0
        self.request = -1


class NgramTrie:
    """`put` whole windows, `best` the likeliest tree of continuations; `squeeze` prunes what grew
    too large.
    """

    def __init__(self, length: int, max_nodes: int = 65536, max_output_nodes: int = 512) -> None:
        self.length = length
        self.roots: dict[int, Node] = {}
        self._limits = (max_nodes, max_output_nodes)
        self._touched: set[int] = set()
        self._request = 0

    def new_request(self) -> None:
        """Input frequencies of earlier requests no longer count."""
        self._request += 1

    def put(
        self, tokens: Sequence[int], is_output: bool, first: int = 0, last: int | None = None
    ) -> None:
        """Add for each position first..last-1 the window of tokens after it."""
        for i in range(first, len(tokens) - 1 if last is None else last):
            node = self.roots.get(tokens[i])
            if node is None:
                node = self.roots[tokens[i]] = Node()
            self._touched.add(tokens[i])
            for token in tokens[i + 1 : i + 1 + self.length]:
                child = node.children.get(token)
                if child is None:
                    child = node.children[token] = Node()
                node = child
                if is_output:
                    node.output += 1
                elif node.request == self._request:
                    node.input += 1
                else:
                    node.request, node.input = self._request, 1.0

    def find(self, context: Sequence[int]) -> Node | None:
        """The node after `context`, or None."""
        node = self.roots.get(context[0])
        for token in context[1:]:
            node = node and node.children.get(token)
        return node

    def score(self, node: Node, output_weight: float) -> float:
        """(1 - w) * input + w * output frequency; 0 for what only an earlier prompt held."""
        inputs = node.input if node.request == self._request else 0.0
        return (1 - output_weight) * inputs + output_weight * node.output

    def best(
        self, node: Node, limit: int, depth: int, output_weight: float
    ) -> tuple[list[int], list[int]]:
        """(tokens, parents) of the best-scored tree below `node`: parents (-1: `node` itself) come
        first.
        """
        tokens: list[int] = []
        parents: list[int] = []
        order = count()
        heap: list[tuple[float, int, int, int, int, Node]] = []
        frontier = (node, -1, 1)
        while True:
            above, parent, level = frontier
            if level <= depth:
                for token, child in above.children.items():
                    score = self.score(child, output_weight)
                    if score > 0:
                        heapq.heappush(heap, (-score, level, next(order), token, parent, child))
            if not heap or len(tokens) >= limit:
                return tokens, parents
            _, level, _, token, parent, child = heapq.heappop(heap)
            tokens.append(token)
            parents.append(parent)
            frontier = (child, len(tokens) - 1, level + 1)

    def squeeze(self, least_touched: int = 1024) -> None:
        """Once many tries were touched, halve output frequencies and drop rare nodes in those that
        grew too large.
        """
        if len(self._touched) < least_touched:
            return
        for token in self._touched:
            nodes, outputs = _sizes(self.roots[token])
            if nodes > self._limits[0] or outputs > self._limits[1]:
                _prune(self.roots[token])
        self._touched.clear()


def _sizes(root: Node) -> tuple[int, int]:
    nodes = outputs = 0
    stack = [root]
    while stack:
        node = stack.pop()
        nodes += 1
        outputs += node.output > 0
        stack.extend(node.children.values())
    return nodes, outputs


def _prune(root: Node) -> None:
    stack = [root]
    while stack:
        node = stack.pop()
        node.children = {t: c for t, c in node.children.items() if c.output > 1}
        for child in node.children.values():
            child.output /= 2
            stack.append(child)
