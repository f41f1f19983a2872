"""How repetitive the texts are: the reason why drafting from earlier text works at all.

    python -m evaluation.redundancy DIR [--format markdown]

For every token of a text: was the n-gram that ends in it written before, in the same text, in earlier samples of the
question, in earlier rounds? And how long is the longest suffix that occurred before? Pure functions over records.
"""

import argparse
import itertools
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from evaluation.records import Record
from evaluation.tables import FORMATS, percent, render
from model.errors import UserError
from model.index.suffix_automaton import SuffixAutomaton

SIZES = (2, 4, 8)
MATCHES = (0, 1, 2, 4, 8, 16, 32, 64)  # lower bounds of the histogram's bins
MOST_TOKENS = 2_000_000  # of a setting that are read: 15 seconds; whole questions from the first on
DEFINITIONS = """\
recurrence  share of n-grams (runs of n tokens) that were written before: in the same text; in other samples; in earlier
            rounds; in any of them, which is what a memory over the question could find
match       longest suffix of the text so far that occurred before, token by token: within the text, and within the question
            (suffix automaton; Hu et al. 2024, SAM-Decoding, sec. 3.1); each text of a repeated run counts once"""


def grams(ids: list[int], n: int) -> list[int]:
    """Hashes of the n-grams, in order."""
    return [hash(tuple(ids[i:i + n])) for i in range(len(ids) - n + 1)]


def recurrence(records: Iterable[Record], n: int) -> dict[str, float]:
    """Share of n-grams seen before: 'own' in the same text, 'samples' and 'rounds' in the question's earlier ones.

    'any' is in any of them: what a memory over the question could find.
    """
    counts: Counter[str] = Counter()
    total = 0
    for texts in _questions(records).values():
        earlier: list[tuple[int, int, set[int]]] = []  # (sample, round, n-grams)
        for record in texts:
            found, own = grams(record.output_ids, n), set()
            samples = set().union(*(g for s, _, g in earlier if s != record.sample))
            rounds = set().union(*(g for s, r, g in earlier if s == record.sample and r != record.round))
            for gram in found:
                hits = {"own": gram in own, "samples": gram in samples, "rounds": gram in rounds}
                counts.update(name for name, hit in hits.items() if hit)
                counts["any"] += any(hits.values())
                own.add(gram)
            total += len(found)
            earlier.append((record.sample, record.round, set(found)))
    return {name: counts[name] / total if total else float("nan") for name in ("own", "samples", "rounds", "any")}


def longest_matches(records: Iterable[Record]) -> dict[str, list[float]]:
    """Histogram over MATCHES of the longest earlier match before each token: within a text, and over the question."""
    found = {"same text": [0] * len(MATCHES), "whole question": [0] * len(MATCHES)}
    for texts in _questions(records).values():
        shared = SuffixAutomaton()
        for number, record in enumerate(texts):
            alone = SuffixAutomaton()
            shared.feed(-1 - number)
            for token in record.output_ids:
                for name, automaton in (("same text", alone), ("whole question", shared)):
                    automaton.feed(token)
                    found[name][_bin(automaton.match_length)] += 1
    return {name: [n / max(1, sum(bins)) for n in bins] for name, bins in found.items()}


def within_limit(records: list[Record]) -> list[Record]:
    """Whole questions up to MOST_TOKENS tokens."""
    spent: Counter[str] = Counter()
    for r in records:
        spent[r.question_id] += len(r.output_ids)
    kept, total = set(), 0
    for question, tokens in spent.items():
        if kept and total + tokens > MOST_TOKENS:
            break
        kept.add(question)
        total += tokens
    return [r for r in records if r.question_id in kept]


def tables(records: list[Record]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of both analyses."""
    found = {n: recurrence(records, n) for n in SIZES}
    grams = [[f"{n} tokens", *(percent(found[n][k]) for k in ("own", "samples", "rounds", "any"))] for n in SIZES]
    matches = [[name, *map(percent, bins)] for name, bins in longest_matches(records).items()]
    return [("Recurrence of n-grams", ["n-grams of", "same text", "other samples", "earlier rounds", "any"], grams),
            ("Longest earlier match, share of tokens", ["within the", *bin_labels()], matches)]


def bin_labels() -> list[str]:
    """Of the match histogram's bins, in tokens."""
    labels = [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in itertools.pairwise(MATCHES)]
    return [*labels, f"{MATCHES[-1]}+"]


def _bin(length: int) -> int:
    return bisect_right(MATCHES, length) - 1


def _questions(records: Iterable[Record]) -> dict[tuple[str, int], list[Record]]:
    """Finished generations by question and choice, in the order they were made."""
    found: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in records:
        if not record.failed:
            found[record.question_id, record.choice].append(record)
    return found


def main() -> int:
    from evaluation.comparison import gather

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder with records below it")
    parser.add_argument("--format", choices=tuple(FORMATS), default="plain")
    args = parser.parse_args()
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is not a folder")
    notices: list[str] = []
    for setting in gather(args.folder, notices):
        for heading, header, rows in tables(within_limit((setting.vanilla or setting.methods[0]).texts)):
            print(f"\n{setting.title}: {heading}\n\n{render(header, rows, args.format)}")
    for notice in notices:
        print(f"note: {notice}")
    print("\n" + DEFINITIONS)
    return 0


if __name__ == "__main__":
    from evaluation.errors import guarded

    guarded(main)()
