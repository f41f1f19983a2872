"""Algebra and word problems: linear equations, shopping, percentages, sum and difference."""

from __future__ import annotations

from random import Random

from training.problems import Problem, Step
from training.problems.arithmetic import add, divide, multiply, subtract

_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas")
_GOODS = ("pens", "apples", "books", "cups", "stamps", "toys", "cakes", "maps")


def linear_equation(rng: Random) -> Problem:
    a, x, b = rng.randint(2, 9), rng.randint(2, 15), rng.randint(1, 40)
    c = a * x + b
    question = rng.choice(
        (
            f"Solve the equation {a}x + {b} = {c}. What is x?",
            f"Find x such that {a}x + {b} = {c}.",
            f"I think of a number, multiply it by {a} and add {b}. The result is {c}."
            " What is my number?",
        )
    )
    steps = (Step(f"{a}x", subtract(c, b), str(c - b)), Step("x", divide(c - b, a), str(x)))
    check = (
        Step(f"{a} times {x}", multiply(a, x), str(a * x)),
        Step("the left side", add(a * x, b), str(c)),
    )
    facts = (f"{a} times the number plus {b} is {c}",)
    return Problem(
        kind="linear_equation",
        question=question,
        answer=str(x),
        goal="the value of x",
        facts=facts,
        plan=f"I subtract {b} from both sides and then divide by {a}",
        steps=steps,
        check=check,
    )


def shopping(rng: Random) -> Problem:
    name, (first, second) = rng.choice(_NAMES), rng.sample(_GOODS, 2)
    n, p, m, q = rng.randint(2, 9), rng.randint(2, 15), rng.randint(2, 9), rng.randint(2, 9)
    cost, other = n * p, m * q
    total = cost + other
    paid = (total // 50 + 1) * 50
    question = rng.choice(
        (
            f"{name} buys {n} {first} for {p} dollars each and {m} {second} for {q} dollars each"
            f" and pays with {paid} dollars. How many dollars are given back?",
            f"In a shop {first} cost {p} dollars each and {second} cost {q} dollars each."
            f" {name} takes {n} {first} and {m} {second}."
            f" How many of {name}'s {paid} dollars are left?",
        )
    )
    steps = (
        Step(f"the cost of the {first}", multiply(n, p), str(cost)),
        Step(f"the cost of the {second}", multiply(m, q), str(other)),
        Step("the total", add(cost, other), str(total)),
        Step("what is left", subtract(paid, total), str(paid - total)),
    )
    check = (
        Step(f"after the {first}", subtract(paid, cost), str(paid - cost)),
        Step(f"after the {second}", subtract(paid - cost, other), str(paid - total)),
    )
    facts = (
        f"{n} {first} cost {p} dollars each",
        f"{m} {second} cost {q} dollars each",
        f"{name} has {paid} dollars",
    )
    return Problem(
        kind="shopping",
        question=question,
        answer=str(paid - total),
        goal=f"how many dollars {name} has left",
        facts=facts,
        plan="I work out the two costs, add them and take the total away",
        steps=steps,
        check=check,
    )


def percentage(rng: Random) -> Problem:
    name, goods = rng.choice(_NAMES), rng.choice(_GOODS)
    percent, parts = rng.choice(((10, 10), (20, 5), (25, 4), (50, 2)))
    base = parts * rng.randint(3, 18)
    share = base // parts
    question = rng.choice(
        (
            f"{name} has {base} {goods} and gives away {percent} percent of them."
            f" How many {goods} are left?",
            f"Out of {base} {goods}, {percent} percent are sold. How many {goods} remain?",
            f"A price of {base} dollars falls by {percent} percent."
            " What is the new price in dollars?",
        )
    )
    steps = (
        Step(f"{percent} percent of {base}", divide(base, parts), str(share)),
        Step("what remains", subtract(base, share), str(base - share)),
    )
    check = (
        Step("the parts that remain", f"{parts} - 1 = {parts - 1}", str(parts - 1)),
        Step("what remains", multiply(parts - 1, share), str(base - share)),
    )
    facts = (f"we start with {base}", f"{percent} percent is 1 part in {parts}")
    return Problem(
        kind="percentage",
        question=question,
        answer=str(base - share),
        goal=f"what remains of {base}",
        facts=facts,
        plan=f"I divide by {parts} and take that away",
        steps=steps,
        check=check,
    )


def sum_and_difference(rng: Random) -> Problem:
    small, gap = rng.randint(3, 30), rng.randint(2, 15)
    large, total = small + gap, 2 * small + gap
    a, b = rng.sample(_NAMES, 2)
    question = rng.choice(
        (
            f"Two numbers add up to {total}, and one is {gap} more than the other."
            " What is the larger number?",
            f"{a} and {b} have {total} cards together. {a} has {gap} more than {b}."
            f" How many cards does {a} have?",
            f"{a} is {gap} years older than {b}. Together they are {total} years old."
            f" How old is {a}?",
        )
    )
    steps = (
        Step("twice the larger number", add(total, gap), str(total + gap)),
        Step("the larger number", divide(total + gap, 2), str(large)),
    )
    check = (
        Step("the smaller number", subtract(large, gap), str(small)),
        Step("the sum", add(large, small), str(total)),
    )
    facts = (f"the sum is {total}", f"the difference is {gap}")
    return Problem(
        kind="sum_and_difference",
        question=question,
        answer=str(large),
        goal="the larger number",
        facts=facts,
        plan="adding the difference to the sum gives twice the larger number",
        steps=steps,
        check=check,
    )


KINDS = (linear_equation, shopping, percentage, sum_and_difference)
