"""From a problem to a document: the user's message and a trace of thought with its final solution.

A trace restates, plans, works step by step (now and then with a slip that is noticed and mended),
checks, perhaps goes over it again, and answers in `\\boxed{}`. A second-round document quotes an
earlier answer, right or wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from evaluation.paradigms.multi_round import second_round_message
from training import phrases
from training.phrases import Voice, capital
from training.problems import Problem, Step, draw
from training.problems.arithmetic import add, divide, multiply, subtract

SLIPS = 0.04
"""Share of the steps in which a wrong number comes first."""


@dataclass(frozen=True)
class Document:
    """One training example: what the user says and what the model writes, end marker excluded."""

    user: str
    assistant: str


def _line(voice: Voice, bank: tuple[str, ...], step: Step) -> str:
    """A step as a sentence that begins with one of the bank's phrases."""
    body = voice.say(phrases.LINE, about=step.about, calc=step.calc, value=step.value)
    lead = voice.say(bank)
    is_same_sentence = bool(lead) and not lead.endswith(". ")
    return lead + body if is_same_sentence else lead + capital(body)


def _slip(rng: Random, step: Step) -> Step | None:
    """The same step ending in a wrong number, or None where its value is no number."""
    if not step.value.isdigit() or not step.calc.endswith(step.value):
        return None
    wrong = str(max(0, int(step.value) + rng.choice((-10, -2, -1, 1, 2, 10))))
    if wrong == step.value:
        return None
    return Step(step.about, step.calc[: -len(step.value)] + wrong, wrong)


def _work(voice: Voice, rng: Random, steps: tuple[Step, ...], slips: float) -> str:
    """The steps, a line each; a share `slips` of them is first done wrong."""
    lines = []
    for i, step in enumerate(steps):
        bank = phrases.FIRST if i == 0 else phrases.NEXT
        slip = _slip(rng, step) if voice.chance(slips) else None
        if not slip:
            lines.append(_line(voice, bank, step))
            continue
        wrong = _line(voice, bank, slip)
        noticed = voice.say(phrases.SLIP)
        right = _line(voice, phrases.NEXT, step)
        lines.append(f"{wrong} {noticed} {right}")
    return "\n".join(lines)


def _thought(voice: Voice, rng: Random, problem: Problem, earlier: str | None) -> str:
    """What stands between the thinking marks; the order of the draws decides the text."""
    facts = "; ".join(problem.facts)
    parts = [voice.say(phrases.OPEN, goal=problem.goal)]
    if earlier is not None:
        parts[0] += " " + voice.say(phrases.EARLIER, earlier=earlier)
    if voice.chance(0.8):
        parts.append(capital(voice.say(phrases.RESTATE, facts=facts)))
    parts[-1] += " " + capital(voice.say(phrases.PLAN, plan=problem.plan))
    parts.append(_work(voice, rng, problem.steps, SLIPS))
    if voice.chance(0.85):
        checks = _work(voice, rng, problem.check, slips=0.0)
        begin, end = voice.say(phrases.CHECK), voice.say(phrases.AGREE)
        parts.append(f"{begin} {checks} {end}")
    if voice.chance(0.3):
        begin = voice.say(phrases.AGAIN)
        parts.append(f"{begin} {_work(voice, rng, problem.steps, slips=0.0)}")
    if voice.chance(0.3):
        parts.append(voice.say(phrases.DOUBT, goal=problem.goal))
    close = voice.say(phrases.CLOSE, goal=problem.goal, answer=problem.answer)
    if earlier is not None:
        bank = phrases.RIGHT if earlier == problem.answer else phrases.WRONG
        close = f"{voice.say(bank, earlier=earlier)} {close}"
    return "\n\n".join([*parts, capital(close)])


def solution(voice: Voice, problem: Problem, answer: str | None = None) -> str:
    """The short text after the thinking: what is given, the calculations, and the boxed answer."""
    facts = "; ".join(problem.facts)
    head = capital(voice.say(phrases.SOLUTION, goal=problem.goal, facts=facts))
    work = "\n".join(f"- {capital(step.about)}: {step.calc}" for step in problem.steps)
    final = voice.say(phrases.FINAL, answer=answer or problem.answer)
    return f"{head}\n\n{work}\n\n{final}"


def _wrong_answer(rng: Random, problem: Problem) -> str:
    if problem.answer.isdigit():
        return str(max(0, int(problem.answer) + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))))
    return rng.choice([letter for letter in "ABCD" if letter != problem.answer])


def reasoning(rng: Random, split: str) -> Document:
    """A problem solved.

    In one of four documents the question comes with an earlier answer to verify.
    """
    _, problem = draw(rng, split)
    voice = Voice(rng)
    user, earlier = problem.question, None
    if rng.random() < 0.25:
        earlier = problem.answer if rng.random() < 0.6 else _wrong_answer(rng, problem)
        user = second_round_message(problem.question, solution(Voice(rng), problem, earlier))
    thought = _thought(voice, rng, problem, earlier)
    return Document(user, f"<think>\n{thought}\n</think>\n\n{solution(voice, problem)}")


def _exercise(rng: Random) -> tuple[str, str]:
    """A calculation as it is asked, and as it is worked out."""
    a, b, c = rng.randint(10, 250), rng.randint(10, 99), rng.randint(2, 9)
    form = rng.randrange(4)
    if form == 0:
        return f"{a} + {b}", add(a, b)
    if form == 1:
        return f"{a + b} - {b}", subtract(a + b, b)
    if form == 2:
        return f"{b} * {c}", multiply(b, c)
    quotient = rng.randint(2, 60)
    return f"{quotient * c} / {c}", divide(quotient * c, c)


def drill(rng: Random) -> Document:
    """Bare sums, differences, products and quotients: the arithmetic everything else leans on."""
    exercises = [_exercise(rng) for _ in range(rng.randint(3, 6))]
    asked = ", ".join(question for question, _ in exercises)
    lines = [worked for _, worked in exercises]
    last = lines[-1].split(" because")[0].split(" = ")[-1]
    work = "\n".join(lines)
    user = f"Work out one after the other: {asked}. What is the last result?"
    return Document(user, f"<think>\n{work}\n</think>\n\nThe answer is $\\boxed{{{last}}}$.")


def document(seed: int, index: int, split: str) -> Document:
    """Document number `index` of the stream `seed`: a function of its arguments alone."""
    rng = Random(f"{seed}/{split}/{index}")
    is_drill = split == "train" and rng.random() < 0.3
    return drill(rng) if is_drill else reasoning(rng, split)
