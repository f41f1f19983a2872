"""The page's sections, in the order in which a reader asks."""

from __future__ import annotations

from dataclasses import dataclass

SPEED = "speed"
WHY = "why"
WHERE = "where"
TOGETHER = "together"
RIGHT = "right"
TEXTS = "texts"
REPLAY = "replay"
HOW = "how"


@dataclass(frozen=True)
class Topic:
    """A section: its heading, and what it answers."""

    name: str
    heading: str
    question: str


TOPICS = (
    Topic(SPEED, "How fast", "Who is faster than vanilla, by how much, and how sure is that?"),
    Topic(WHY, "Why", "Speed-up is accepted tokens over the cost of a step."),
    Topic(WHERE, "Where", "By draft position, by round or sample, by category of questions."),
    Topic(TOGETHER, "Several samples together", "Does drafting still pay in a batch?"),
    Topic(RIGHT, "Is it right", "Are the texts vanilla's, and are the answers correct?"),
    Topic(TEXTS, "How repetitive the texts are", "Why drafting from earlier text works at all."),
    Topic(REPLAY, "On recorded texts", "What drafters would have accepted, and the bounds."),
    Topic(HOW, "How it was run", "Machine, versions, settings, and notes on these runs."),
)
