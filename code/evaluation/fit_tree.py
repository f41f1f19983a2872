"""Fit the static tree of `stand` to recorded runs: the nodes that were accepted most.

    python -m evaluation.fit_tree RECORDS.jsonl --out tree.json

RECORDS are this benchmark's records of one run made with --record-topk 10. They are replayed with a
large tree (625 nodes, as published); the nodes accepted most often make the new one, for
--stand-tree.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.command import Parser, at_least, print_notices, run_command, summary
from evaluation.records.manifest import Manifest, read_manifest
from evaluation.records.writer import write_atomically
from evaluation.replaying import target
from evaluation.replaying.corpus import Corpus, index
from evaluation.replaying.encoding import Encoder
from evaluation.replaying.formats import ReadOptions
from evaluation.replaying.topk import topk_of_steps
from evaluation.replaying.trace import Fields
from model.contract import NO_CAP, StepOut
from model.drafters.stand import Stand
from model.engine.replay import Script, replay
from model.errors import UserError
from model.index.topk_ngrams import TOP
from model.static_tree import Path as NodePath
from model.static_tree import StaticTree

RANK_CHANCES = (0.6, 0.15, 0.07, 0.05, 0.04, 0.03, 0.02, 0.015, 0.01, 0.005)
"""Only the order of their products matters: which nodes the large tree holds."""


class CountingStand(Stand):
    """Counts how often each node of its tree is accepted."""

    def __init__(self, tree: StaticTree) -> None:
        super().__init__(tree)
        self.accepted = np.zeros(len(tree), dtype=np.int64)
        self.steps = 0

    def observe(self, out: StepOut) -> None:
        nodes_of_draft = np.array(out.path[1:], dtype=np.int64) - 1
        self.accepted[self.drafted[nodes_of_draft]] += 1
        self.steps += 1
        super().observe(out)


@dataclass(frozen=True)
class Fit:
    """The counts of a replay."""

    tree: StaticTree
    accepted: np.ndarray
    steps: int

    def best(self, nodes: int) -> StaticTree:
        """The `nodes` nodes accepted most, without those that never were."""
        shares = self.accepted / max(1, self.steps)
        paths = self.tree.paths()
        order = sorted(range(1, len(paths)), key=lambda node: (-shares[node], len(paths[node])))
        chosen = [node for node in order[:nodes] if shares[node] > 0]
        return StaticTree.of({paths[node]: float(shares[node]) for node in chosen})


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(sys.argv[1:] if argv is None else argv)
    options = ReadOptions(Fields(), "best_of_n")
    corpus, notices = index([args.records], options, None, args.skip_bad_lines)
    print_notices(notices)
    large = large_tree(args.start_nodes, args.depth)
    drafter = CountingStand(large)
    generations = 0
    questions = list(corpus.questions)[: args.limit]
    manifest = read_manifest(args.records)
    for question in tqdm(questions, unit="question", desc="replaying"):
        drafter.enter("question", question)
        for script in _scripts(corpus, question, manifest):
            replay(drafter, script)
            generations += 1
    fitted = Fit(large, drafter.accepted, drafter.steps).best(args.nodes)
    if len(fitted) == 1:
        raise UserError(
            f"{args.records}: no drafted token was accepted, so there is no tree to fit"
        )
    write_atomically(args.out, fitted.text())
    mean_accepted = 1 + sum(fitted.chances[1:])
    print(
        f"{args.out}: {len(fitted) - 1} nodes, up to {max(fitted.depths)} deep,"
        f" from {generations} generations ({drafter.steps:,} steps)"
    )
    print(f"mean accepted tokens of these steps, had the tree been this one: {mean_accepted:.2f}")
    print(f"use it: --method stand --stand-tree {args.out}")
    return 0


def large_tree(nodes: int, depth: int) -> StaticTree:
    """The `nodes` likeliest nodes at most `depth` deep, taking ranks as independent."""
    chances: dict[NodePath, float] = {}
    waiting: list[tuple[float, int, NodePath]] = [(-1.0, 0, ())]
    while waiting and len(chances) <= nodes:
        negative, length, path = heapq.heappop(waiting)
        chances[path] = -negative
        if length < depth:
            for rank, chance in enumerate(RANK_CHANCES[:TOP]):
                heapq.heappush(waiting, (negative * chance, length + 1, (*path, rank)))
    del chances[()]
    return StaticTree.of(chances)


def _scripts(corpus: Corpus, question: str, manifest: Manifest) -> Iterator[Script]:
    """A question's generations; UserError where their likeliest tokens are not recorded."""
    encoder = Encoder(stop_ids=frozenset(manifest.stop_ids or ()))
    for trace in corpus.load(question):
        if not trace.is_ours or trace.target_topk is None:
            raise UserError(f"no tree can be fitted to {trace.where}: {target.NO_TOPK}")
        script = encoder.script(trace)
        topk = topk_of_steps(trace.target_topk, trace.where, TOP, manifest.vocab_size or NO_CAP)
        yield Script(script.request, script.ids, topk)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description=summary(__doc__),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("records", type=Path, help="a run's records, made with --record-topk 10")
    parser.add_argument("--out", type=Path, required=True, help="the tree's file, JSON")
    parser.add_argument("--nodes", type=int, default=80, help="nodes of the tree, without its root")
    parser.add_argument("--depth", type=int, default=20, help="deepest node")
    parser.add_argument("--start-nodes", type=int, default=625, help="nodes of the large tree")
    parser.add_argument("--limit", type=int, help="at most so many questions")
    parser.add_argument("--skip-bad-lines", action="store_true", help="leave malformed lines out")
    args = parser.parse_args(argv)
    at_least(args, 1, "nodes", "depth", "start_nodes", "limit")
    return args


if __name__ == "__main__":
    run_command(main)()
