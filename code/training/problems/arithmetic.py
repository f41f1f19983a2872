"""Worked arithmetic: the calculation written out in steps that a small model can learn.

Digits are single tokens, so what is hard is carrying; the forms below split a number into tens and
ones first.
"""

from __future__ import annotations


def add(a: int, b: int) -> str:
    """'47 + 38 = 47 + 30 + 8 = 77 + 8 = 85': tens first, then ones."""
    tens, ones = b - b % 10, b % 10
    if b < 10 or ones == 0 or a < 10:
        return f"{a} + {b} = {a + b}"
    return f"{a} + {b} = {a} + {tens} + {ones} = {a + tens} + {ones} = {a + b}"


def subtract(a: int, b: int) -> str:
    """'85 - 38 = 85 - 30 - 8 = 55 - 8 = 47'."""
    tens, ones = b - b % 10, b % 10
    if b < 10 or ones == 0:
        return f"{a} - {b} = {a - b}"
    return f"{a} - {b} = {a} - {tens} - {ones} = {a - tens} - {ones} = {a - b}"


def multiply(a: int, b: int) -> str:
    """'7 * 23 = 7 * 20 + 7 * 3 = 140 + 21 = 161', splitting the larger factor.

    One of the two is below 10.
    """
    small, large = sorted((a, b))
    tens, ones = large - large % 10, large % 10
    if large < 10 or ones == 0 or small == 1:
        return f"{a} * {b} = {a * b}"
    parts = f"{small} * {tens} + {small} * {ones} = {small * tens} + {small * ones}"
    return f"{a} * {b} = {parts} = {a * b}"


def divide(a: int, b: int) -> str:
    """'84 / 7 = 12 because 7 * 12 = 70 + 14 = 84' (exact division only)."""
    quotient = a // b
    tens, ones = quotient - quotient % 10, quotient % 10
    middle = f"{b * tens} + {b * ones} = " if quotient > 10 and ones else ""
    return f"{a} / {b} = {quotient} because {b} * {quotient} = {middle}{a}"


def join(items: list[str]) -> str:
    """'2, 5 and 8'."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
