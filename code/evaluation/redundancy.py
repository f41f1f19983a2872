"""How repetitive the texts are: the reason why drafting from earlier text works at all.

For every token of a text: was the n-gram that ends in it written before, in the same text, in earlier samples of the
question, in earlier rounds? And how long is the longest suffix that occurred before? Pure functions over records.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from evaluation.records import Record
from model.index.suffix_automaton import SuffixAutomaton

SIZES = (2, 4, 8)
MATCHES = (0, 1, 2, 4, 8, 16, 32, 64)  # lower bounds of the histogram's bins


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
    found = {"own text": [0] * len(MATCHES), "whole question": [0] * len(MATCHES)}
    for texts in _questions(records).values():
        shared = SuffixAutomaton()
        for number, record in enumerate(texts):
            alone = SuffixAutomaton()
            shared.feed(-1 - number)
            for token in record.output_ids:
                for name, automaton in (("own text", alone), ("whole question", shared)):
                    automaton.feed(token)
                    found[name][_bin(automaton.match_length)] += 1
    return {name: [n / max(1, sum(bins)) for n in bins] for name, bins in found.items()}


def _bin(length: int) -> int:
    return max(i for i, low in enumerate(MATCHES) if length >= low)


def _questions(records: Iterable[Record]) -> dict[tuple[str, int], list[Record]]:
    """Finished generations by question and choice, in the order they were made."""
    found: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in records:
        if not record.failed:
            found[record.question_id, record.choice].append(record)
    return found
