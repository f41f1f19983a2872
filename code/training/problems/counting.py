"""Whole numbers: multiples, remainders, greatest common divisors, products of choices."""

from __future__ import annotations

from math import gcd
from random import Random

from training.problems import Problem, Step
from training.problems.arithmetic import join, multiply, subtract


def multiples(rng: Random) -> Problem:
    k, count = rng.randint(3, 9), rng.randint(4, 12)
    rest = rng.randint(0, k - 1)
    limit = k * count + rest
    question = rng.choice(
        (
            f"How many whole numbers from 1 to {limit} are multiples of {k}?",
            f"Count the multiples of {k} among the numbers from 1 up to {limit}.",
            f"A bell rings every {k} minutes. How often does it ring in the first {limit} minutes?",
        )
    )
    steps = (
        Step(f"the largest multiple of {k}", f"{k} * {count} = {k * count}", str(k * count)),
        Step("what is left over", subtract(limit, k * count), str(rest)),
        Step("the count", f"{k * count} / {k} = {count}", str(count)),
    )
    listed = [str(k * i) for i in range(1, count + 1)]
    check = (Step("the count by listing", "the multiples are " + join(listed), str(count)),)
    facts = (f"we look at the numbers from 1 to {limit}", f"we want multiples of {k}")
    return Problem(
        kind="multiples",
        question=question,
        answer=str(count),
        goal=f"how many multiples of {k} there are",
        facts=facts,
        plan=f"I look for the largest multiple of {k} that is not above {limit}",
        steps=steps,
        check=check,
    )


def remainder(rng: Random) -> Problem:
    k, quotient = rng.randint(3, 9), rng.randint(5, 19)
    rest = rng.randint(0, k - 1)
    number = k * quotient + rest
    question = rng.choice(
        (
            f"What is the remainder when {number} is divided by {k}?",
            f"{number} eggs are put into boxes of {k}."
            " How many eggs are left over when no more box can be filled?",
            f"Find the number between 0 and {k - 1} that {number} leaves when we divide it by {k}.",
        )
    )
    steps = (
        Step("the full groups", multiply(k, quotient), str(k * quotient)),
        Step("the remainder", subtract(number, k * quotient), str(rest)),
    )
    check = (
        Step(f"{k} times {quotient}", multiply(k, quotient), str(k * quotient)),
        Step("adding the rest", f"{k * quotient} + {rest} = {number}", str(number)),
    )
    facts = (f"the number is {number}", f"we divide by {k}")
    return Problem(
        kind="remainder",
        question=question,
        answer=str(rest),
        goal=f"the remainder of {number} divided by {k}",
        facts=facts,
        plan=f"I take away the largest multiple of {k}",
        steps=steps,
        check=check,
    )


def common_divisor(rng: Random) -> Problem:
    d = rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 10))
    a, b = sorted((d * rng.randint(2, 9), d * rng.randint(3, 12)), reverse=True)
    if a == b:
        a += d
    question = rng.choice(
        (
            f"What is the greatest common divisor of {a} and {b}?",
            f"Find the largest number that divides both {a} and {b}.",
            f"Two ropes of {a} and {b} meters are cut into equal pieces with nothing left."
            " What is the greatest possible length of a piece?",
        )
    )
    steps, x, y = [], a, b
    while y:
        q, r = divmod(x, y)
        steps.append(Step("the remainder", f"{x} - {q} * {y} = {x} - {q * y} = {r}", str(r)))
        x, y = y, r
    check = (
        Step(f"{a} divided by {x}", f"{a} / {x} = {a // x}", str(a // x)),
        Step(f"{b} divided by {x}", f"{b} / {x} = {b // x}", str(b // x)),
    )
    facts = (f"the two numbers are {a} and {b}",)
    return Problem(
        kind="common_divisor",
        question=question,
        answer=str(gcd(a, b)),
        goal=f"the greatest common divisor of {a} and {b}",
        facts=facts,
        plan="I use the method of Euclid: divide and keep the remainder until it is 0",
        steps=tuple(steps),
        check=check,
    )


_CHOICES = (
    ("shirts", "hats", "scarves"),
    ("starters", "mains", "desserts"),
    ("roads", "bridges", "paths"),
    ("pens", "notebooks", "bags"),
    ("songs", "dances", "costumes"),
)


def product_of_choices(rng: Random) -> Problem:
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 6)
    x, y, z = rng.choice(_CHOICES)
    question = rng.choice(
        (
            f"There are {a} {x}, {b} {y} and {c} {z}. In how many ways can one of each be chosen?",
            f"A set has one of {a} {x}, one of {b} {y} and one of {c} {z}."
            " How many different sets are there?",
            f"You pick one of {a} {x}, then one of {b} {y}, then one of {c} {z}."
            " How many results are possible?",
        )
    )
    steps = (
        Step(f"the ways for {x} and {y}", f"{a} * {b} = {a * b}", str(a * b)),
        Step("all ways", multiply(a * b, c), str(a * b * c)),
    )
    check = (
        Step(f"the ways for {y} and {z}", f"{b} * {c} = {b * c}", str(b * c)),
        Step("all ways", multiply(a, b * c), str(a * b * c)),
    )
    facts = (f"there are {a} {x}", f"there are {b} {y}", f"there are {c} {z}")
    return Problem(
        kind="product_of_choices",
        question=question,
        answer=str(a * b * c),
        goal="the number of ways",
        facts=facts,
        plan="each choice is free, so the numbers are multiplied",
        steps=steps,
        check=check,
    )


KINDS = (multiples, remainder, common_divisor, product_of_choices)
