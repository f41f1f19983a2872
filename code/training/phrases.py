"""Wording of a trace of thought: banks of phrases, and the habits of one writer.

The first phrase of a bank is the commonest (weight 1/rank). A `Voice` fixes a habit for one trace:
it prefers a few of the phrases, so a trace repeats itself the way one writer does, and two traces
differ.
"""

from __future__ import annotations

from random import Random

OPEN = (
    "Okay, so I need to find {goal}.",
    "Okay, let me find {goal}.",
    "Alright, I have to work out {goal}.",
    "Let me see. The question asks for {goal}.",
    "Hmm, the task is to find {goal}.",
    "So, what is asked here is {goal}.",
    "First I want to understand the problem: it asks for {goal}.",
    "Let me think about this. I am looking for {goal}.",
)
RESTATE = (
    "I know that {facts}.",
    "The problem says that {facts}.",
    "What is given: {facts}.",
    "Here {facts}.",
    "Let me write down what I know: {facts}.",
    "From the question, {facts}.",
    "So {facts}.",
)
PLAN = (
    "I think {plan}.",
    "The idea: {plan}.",
    "Here {plan}.",
    "Let me recall: {plan}.",
    "As far as I know, {plan}.",
    "To solve this, {plan}.",
    "Okay, {plan}. That should work.",
    "Maybe the easiest way is this: {plan}.",
)
FIRST = ("First, ", "First, ", "Let me start. ", "To begin, ", "Okay, ", "So, first ", "")
NEXT = ("Then ", "Next, ", "So ", "Now ", "After that, ", "And then ", "Okay, now ", "")
LINE = (
    "{calc}, so {about} is {value}.",
    "{about}: {calc}.",
    "{calc}. That is {about}.",
    "for {about} I get {calc}.",
    "{about} is {value}, since {calc}.",
    "{calc}. So {about} is {value}.",
)
SLIP = (
    "Wait, that is not right.",
    "Hmm, no, that can't be right.",
    "Wait, I made a mistake there.",
    "No, wait. Let me do that again.",
    "Hold on, that is wrong.",
)
CHECK = (
    "Wait, let me double-check that.",
    "Let me check this.",
    "Let me verify the result.",
    "Hmm, let me make sure.",
    "But wait, is that correct? Let me check.",
    "Let me double-check by going back.",
    "I should verify this another way.",
    "Just to be sure, I will test it.",
)
AGAIN = (
    "Let me go through the steps again.",
    "Let me recompute it once more.",
    "Going over it again:",
    "One more time, to be safe.",
    "Let me repeat the calculation.",
)
AGREE = (
    "Yes, that fits.",
    "That matches.",
    "Good, that is the same.",
    "So that checks out.",
    "Okay, it is consistent.",
    "Great, this agrees with what I had.",
)
DOUBT = (
    "Is there anything I missed? I don't think so.",
    "I am fairly sure about this.",
    "That seems reasonable.",
    "The question only asks for {goal}, so this is enough.",
    "Nothing else is needed.",
)
CLOSE = (
    "So the answer is {answer}.",
    "Therefore, the answer is {answer}.",
    "So {goal} must be {answer}.",
    "I am confident that the answer is {answer}.",
    "Thus the answer should be {answer}.",
    "That means the answer is {answer}.",
)
EARLIER = (
    "The earlier answer was {earlier}. Let me see if that is right.",
    "Before, I got {earlier}. I need to check it.",
    "I answered {earlier} the last time. Let me work it out again.",
    "My previous answer says {earlier}. I should not trust it blindly.",
)
RIGHT = (
    "So the earlier answer {earlier} was correct.",
    "This is what I had before, so {earlier} is confirmed.",
    "The previous answer {earlier} holds.",
)
WRONG = (
    "So the earlier answer {earlier} was wrong.",
    "This differs from {earlier}, so I made a mistake before.",
    "The previous answer {earlier} can't be right.",
)
SOLUTION = (
    "To find {goal}, note that {facts}.",
    "We look for {goal}. Here {facts}.",
    "Given that {facts}, we find {goal}.",
)
FINAL = (
    "The answer is $\\boxed{{{answer}}}$.",
    "**Answer:** $\\boxed{{{answer}}}$",
    "So the result is $\\boxed{{{answer}}}$.",
)


PREFERENCE = 5
"""A favourite phrase is drawn so many times as often as others of its rank."""


class Voice:
    """One writer: draws phrases with weight 1/rank, and has a favourite in each bank."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._favourite: dict[tuple[str, ...], int] = {}

    def say(self, bank: tuple[str, ...], **words: str) -> str:
        weights = [1 / (rank + 1) for rank in range(len(bank))]
        if bank not in self._favourite:
            self._favourite[bank] = self._rng.choices(range(len(bank)), weights)[0]
        weights[self._favourite[bank]] *= PREFERENCE
        return self._rng.choices(bank, weights)[0].format(**words)

    def chance(self, probability: float) -> bool:
        return self._rng.random() < probability


def capital(text: str) -> str:
    """Upper-case the first letter and leave the rest as it is."""
    return text[:1].upper() + text[1:]
