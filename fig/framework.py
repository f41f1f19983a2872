"""Draw fig/framework.png, the parts of the benchmark and what passes between them.

python fig/framework.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot is imported: no window is opened

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FILE = Path(__file__).with_name("framework.png")
BLUE, ORANGE, GREEN, PINK, GREY = "#cfe3f3", "#fbe3bd", "#cdebdf", "#f3dbe7", "#eeeeee"
WHITE = "#ffffff"

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rounded box: its lower left corner, its size, a bold title and the lines below it."""

    corner: Point
    size: Point
    colour: str
    title: str
    lines: tuple[str, ...] = ()

    def draw(self, axis: Axes) -> None:
        (x, y), (width, height) = self.corner, self.size
        outline = FancyBboxPatch(
            self.corner,
            width,
            height,
            boxstyle="round,pad=0.06",
            facecolor=self.colour,
            edgecolor="#555",
        )
        axis.add_patch(outline)
        middle, top = x + width / 2, y + height
        centred = {"ha": "center", "va": "top"}
        axis.text(middle, top - 0.12, self.title, fontsize=11, weight="bold", **centred)
        axis.text(
            middle, top - 0.52, "\n".join(self.lines), fontsize=8.5, linespacing=1.45, **centred
        )


@dataclass(frozen=True)
class Arrow:
    """An arrow, and what passes along it, written `offset` away from its middle."""

    start: Point
    end: Point
    text: str = ""
    offset: Point = (0, 0.1)

    def draw(self, axis: Axes) -> None:
        line = FancyArrowPatch(
            self.start, self.end, arrowstyle="-|>", mutation_scale=13, color="#333"
        )
        axis.add_patch(line)
        x = (self.start[0] + self.end[0]) / 2 + self.offset[0]
        y = (self.start[1] + self.end[1]) / 2 + self.offset[1]
        axis.text(x, y, self.text, ha="center", fontsize=8.5)


BOXES = (
    Box(
        (0.2, 4.0),
        (2.5, 1.9),
        GREY,
        "Questions",
        ("AIME24, AIME25,", "MATH500, GPQA, mini,", "any JSON lines"),
    ),
    Box(
        (3.6, 4.0),
        (2.5, 1.9),
        BLUE,
        "Paradigm",
        ("Best-of-N", "or multi-round thinking:", "calls generate()"),
    ),
    Box((7.2, 3.4), (5.7, 2.5), GREEN, "Engine"),
    Box((7.4, 3.6), (1.55, 1.5), ORANGE, "propose", ("a token tree", "below the", "last token")),
    Box(
        (9.25, 3.6), (1.55, 1.5), WHITE, "verify", ("one forward", "of the target", "over the tree")
    ),
    Box(
        (11.1, 3.6),
        (1.55, 1.5),
        WHITE,
        "accept",
        ("the target's own", "token, else stop;", "keep cache rows"),
    ),
    Box(
        (7.2, 0.4),
        (5.7, 1.8),
        ORANGE,
        "Drafters",
        (
            "vanilla   pld   recycling   rest   lookahead   pia",
            "sam   sps   eagle3   sam_eagle3   sam[any]",
        ),
    ),
    Box((3.6, 0.4), (2.5, 1.8), PINK, "Records", ("one line a generation:", "ids, steps, times")),
    Box(
        (0.2, 0.4),
        (2.5, 1.8),
        GREY,
        "Results",
        ("speed-ups, intervals,", "accuracy, report,", "trace viewer"),
    ),
)
ARROWS = (
    Arrow((2.8, 4.95), (3.5, 4.95)),
    Arrow((6.2, 4.95), (7.1, 4.95), "prompt", (0, 0.12)),
    Arrow((8.2, 2.3), (8.2, 3.5), "draft", (-0.4, -0.1)),
    Arrow((11.9, 3.5), (11.9, 2.3), "what was emitted", (-0.85, -0.08)),
    Arrow((9.02, 4.3), (9.18, 4.3)),
    Arrow((10.87, 4.3), (11.03, 4.3)),
    Arrow((7.1, 3.6), (6.0, 2.3), "every generation", (-0.75, 0.05)),
    Arrow((3.5, 1.3), (2.8, 1.3)),
)


def main() -> None:
    figure, axis = plt.subplots(figsize=(11, 5.2))
    axis.set_xlim(0, 13.2)
    axis.set_ylim(0, 6.3)
    axis.axis("off")
    for part in (*BOXES, *ARROWS):
        part.draw(axis)
    figure.savefig(FILE, dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    main()
