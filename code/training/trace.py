"""From a problem to a document: the user's message and a trace of thought with its final solution.

A trace restates, plans, works step by step (now and then with a slip that is noticed and mended), checks, perhaps
goes over it again, and answers in `\\boxed{}`. A second-round document quotes an earlier answer, right or wrong.
"""

from dataclasses import dataclass
from random import Random

from evaluation.paradigms.multi_round import second_round_message
from training import phrases as p
from training.problems import Problem, Step, draw
from training.problems.arithmetic import add, divide, multiply, subtract


@dataclass(frozen=True)
class Document:
    """One training example: what the user says and what the model is to write, end marker excluded."""

    user: str
    assistant: str


def _line(voice: p.Voice, bank: tuple[str, ...], step: Step) -> str:
    body = voice.say(p.LINE, about=step.about, calc=step.calc, value=step.value)
    lead = voice.say(bank)
    return (lead + body) if lead and not lead.endswith(". ") else lead + p.capital(body)


def _slip(rng: Random, step: Step) -> Step | None:
    """The same step ending in a wrong number, or None where its value is no number."""
    if not step.value.isdigit() or not step.calc.endswith(step.value):
        return None
    wrong = str(max(0, int(step.value) + rng.choice((-10, -2, -1, 1, 2, 10))))
    return None if wrong == step.value else Step(step.about, step.calc[: -len(step.value)] + wrong, wrong)


def _work(voice: p.Voice, rng: Random, steps: tuple[Step, ...], slips: float) -> list[str]:
    lines = []
    for i, step in enumerate(steps):
        bank = p.FIRST if i == 0 else p.NEXT
        slip = _slip(rng, step) if voice.chance(slips) else None
        if slip:
            lines.append(_line(voice, bank, slip) + " " + voice.say(p.SLIP) + " " + _line(voice, p.NEXT, step))
        else:
            lines.append(_line(voice, bank, step))
    return lines


def _thought(voice: p.Voice, rng: Random, problem: Problem, earlier: str | None) -> str:
    facts = "; ".join(problem.facts)
    parts = [voice.say(p.OPEN, goal=problem.goal)]
    if earlier is not None:
        parts[0] += " " + voice.say(p.EARLIER, earlier=earlier)
    if voice.chance(0.8):
        parts.append(p.capital(voice.say(p.RESTATE, facts=facts)))
    parts[-1] += " " + p.capital(voice.say(p.PLAN, plan=problem.plan))
    parts.append("\n".join(_work(voice, rng, problem.steps, slips=0.04)))
    if voice.chance(0.85):
        checks = _work(voice, rng, problem.check, slips=0.0)
        parts.append(voice.say(p.CHECK) + " " + "\n".join(checks) + " " + voice.say(p.AGREE))
    if voice.chance(0.3):
        parts.append(voice.say(p.AGAIN) + " " + "\n".join(_work(voice, rng, problem.steps, slips=0.0)))
    if voice.chance(0.3):
        parts.append(voice.say(p.DOUBT, goal=problem.goal))
    close = voice.say(p.CLOSE, goal=problem.goal, answer=problem.answer)
    if earlier is not None:
        close = voice.say(p.RIGHT if earlier == problem.answer else p.WRONG, earlier=earlier) + " " + close
    return "\n\n".join([*parts, p.capital(close)])


def solution(voice: p.Voice, problem: Problem, answer: str | None = None) -> str:
    """The short text after the thinking: what is given, the calculations, and the boxed answer."""
    head = p.capital(voice.say(p.SOLUTION, goal=problem.goal, facts="; ".join(problem.facts)))
    work = "\n".join(f"- {p.capital(s.about)}: {s.calc}" for s in problem.steps)
    return f"{head}\n\n{work}\n\n{voice.say(p.FINAL, answer=answer or problem.answer)}"


def _wrong_answer(rng: Random, problem: Problem) -> str:
    if problem.answer.isdigit():
        return str(max(0, int(problem.answer) + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))))
    return rng.choice([x for x in "ABCD" if x != problem.answer])


def reasoning(rng: Random, split: str) -> Document:
    """A problem solved; in one of four documents the question comes with an earlier answer to verify."""
    _, problem = draw(rng, split)
    voice = p.Voice(rng)
    user, earlier = problem.question, None
    if rng.random() < 0.25:
        earlier = problem.answer if rng.random() < 0.6 else _wrong_answer(rng, problem)
        user = second_round_message(problem.question, solution(p.Voice(rng), problem, earlier))
    thought = _thought(voice, rng, problem, earlier)
    return Document(user, f"<think>\n{thought}\n</think>\n\n{solution(voice, problem)}")


def drill(rng: Random) -> Document:
    """Bare sums, differences, products and quotients: the arithmetic everything else leans on."""
    lines, asked = [], []
    for _ in range(rng.randint(3, 6)):
        a, b, c = rng.randint(10, 250), rng.randint(10, 99), rng.randint(2, 9)
        form = rng.randrange(4)
        if form == 0:
            asked.append(f"{a} + {b}"), lines.append(add(a, b))
        elif form == 1:
            a = a + b
            asked.append(f"{a} - {b}"), lines.append(subtract(a, b))
        elif form == 2:
            asked.append(f"{b} * {c}"), lines.append(multiply(b, c))
        else:
            q = rng.randint(2, 60)
            asked.append(f"{q * c} / {c}"), lines.append(divide(q * c, c))
    last = lines[-1].split(" because")[0].split(" = ")[-1]
    work = "\n".join(lines)
    user = "Work out one after the other: " + ", ".join(asked) + ". What is the last result?"
    return Document(user, f"<think>\n{work}\n</think>\n\nThe answer is $\\boxed{{{last}}}$.")


def document(seed: int, index: int, split: str) -> Document:
    """Document number `index` of the stream `seed`: a function of its arguments alone."""
    rng = Random(f"{seed}/{split}/{index}")
    return drill(rng) if split == "train" and rng.random() < 0.3 else reasoning(rng, split)
