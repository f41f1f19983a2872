"""Sequences: terms, recurrences and sums, written out term by term."""

from __future__ import annotations

import itertools
from random import Random

from training.problems import Problem, Step
from training.problems.arithmetic import add, join, multiply, subtract


def nth_term(rng: Random) -> Problem:
    first, gap, n = rng.randint(2, 30), rng.randint(2, 9), rng.randint(5, 12)
    jump, value = gap * (n - 1), first + gap * (n - 1)
    question = rng.choice(
        (
            f"An arithmetic sequence starts with {first} and goes up by {gap} each time."
            f" What is term number {n}?",
            f"A sequence begins {first}, {first + gap}, {first + 2 * gap} and keeps the same gap."
            f" Find term number {n}.",
            f"The first term of a sequence is {first} and the common difference is {gap}."
            f" Find term number {n}.",
        )
    )
    steps = (
        Step("the number of gaps", subtract(n, 1), str(n - 1)),
        Step("the total jump", multiply(gap, n - 1), str(jump)),
        Step(f"term number {n}", add(first, jump), str(value)),
    )
    terms = [str(first + gap * i) for i in range(n)]
    check = (Step(f"term number {n} by listing", "the terms are " + join(terms), str(value)),)
    facts = (f"the first term is {first}", f"the gap is {gap}", f"we want term number {n}")
    return Problem(
        kind="nth_term",
        question=question,
        answer=str(value),
        goal=f"term number {n} of the sequence",
        facts=facts,
        plan=f"there are {n} - 1 gaps before term number {n}, so I add the gap that many times",
        steps=steps,
        check=check,
    )


def recurrence(rng: Random) -> Problem:
    start, plus, length = rng.randint(1, 5), rng.randint(1, 9), rng.randint(3, 5)
    terms = [start]
    for _ in range(length - 1):
        terms.append(2 * terms[-1] + plus)
    question = rng.choice(
        (
            f"A sequence starts with {start}. Each next term is twice the term before plus {plus}."
            f" What is term number {length}?",
            f"Start with {start}. In every move double the number and add {plus}."
            f" Which number is there after {length - 1} moves?",
            f"Let x be {start}. Replace x by 2x + {plus}, and do this {length - 1} times in all."
            " What is x at the end?",
        )
    )
    steps, back = [], []
    for number, (a, b) in enumerate(itertools.pairwise(terms), 2):
        forward = f"2 * {a} + {plus} = {2 * a} + {plus} = {b}"
        backward = f"({b} - {plus}) / 2 = {b - plus} / 2 = {a}"
        steps.append(Step(f"term number {number}", forward, str(b)))
        back.append(Step(f"going back from {b}", backward, str(a)))
    facts = (
        f"we start with {start}",
        f"each move doubles the number and adds {plus}",
        f"there are {length - 1} moves",
    )
    return Problem(
        kind="recurrence",
        question=question,
        answer=str(terms[-1]),
        goal=f"the number after {length - 1} moves",
        facts=facts,
        plan="I just apply the rule again and again",
        steps=tuple(steps),
        check=tuple(reversed(back)),
    )


def running_sum(rng: Random) -> Problem:
    first, gap, n = rng.randint(1, 12), rng.randint(2, 6), rng.randint(4, 6)
    terms = [first + gap * i for i in range(n)]
    question = rng.choice(
        (
            f"What is the sum of the first {n} terms of the sequence {terms[0]}, {terms[1]},"
            f" {terms[2]}, ...?",
            f"A sequence starts with {first} and each term is {gap} more than the one before."
            f" Add up its first {n} terms.",
            f"Someone saves {first} coins in the first week and {gap} more in each week"
            " than in the week before."
            f" How many coins are saved in {n} weeks?",
        )
    )
    steps, total = [], terms[0]
    for count, term in enumerate(terms[1:], 2):
        steps.append(Step(f"the sum of {count} terms", add(total, term), str(total + term)))
        total += term
    ends = terms[0] + terms[-1]
    check = (
        Step("first plus last", add(terms[0], terms[-1]), str(ends)),
        Step("twice the sum", multiply(n, ends), str(n * ends)),
        Step("the sum", f"{n * ends} / 2 = {total}", str(total)),
    )
    facts = (f"the terms are {join([str(t) for t in terms])}", f"there are {n} terms")
    return Problem(
        kind="running_sum",
        question=question,
        answer=str(total),
        goal=f"the sum of the first {n} terms",
        facts=facts,
        plan="I add the terms one by one",
        steps=tuple(steps),
        check=check,
    )


KINDS = (nth_term, recurrence, running_sum)
