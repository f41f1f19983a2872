"""Draw fig/framework.png: python fig/framework.py"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, ORANGE, GREEN, PINK, GREY = "#cfe3f3", "#fbe3bd", "#cdebdf", "#f3dbe7", "#eeeeee"


def box(axis, x, y, width, height, title, text, colour):
    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.06", facecolor=colour, edgecolor="#555"))
    axis.text(x + width / 2, y + height - 0.12, title, ha="center", va="top", fontsize=11, weight="bold")
    axis.text(x + width / 2, y + height - 0.52, text, ha="center", va="top", fontsize=8.5, linespacing=1.45)


def arrow(axis, start, end, text="", offset=(0, 0.1), bend=0.0):
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color="#333",
                                   connectionstyle=f"arc3,rad={bend}"))
    axis.text((start[0] + end[0]) / 2 + offset[0], (start[1] + end[1]) / 2 + offset[1], text, ha="center", fontsize=8.5)


figure, axis = plt.subplots(figsize=(11, 5.2))
axis.set_xlim(0, 13.2)
axis.set_ylim(0, 6.3)
axis.axis("off")
box(axis, 0.2, 4.0, 2.5, 1.9, "Questions", "AIME24, AIME25,\nMATH500, GPQA, mini,\nany JSON lines", GREY)
box(axis, 3.6, 4.0, 2.5, 1.9, "Paradigm", "Best-of-N\nor multi-round thinking:\ncalls generate()", BLUE)
box(axis, 7.2, 3.4, 5.7, 2.5, "Engine", "", GREEN)
box(axis, 7.4, 3.6, 1.55, 1.5, "propose", "a token tree\nbelow the\nlast token", ORANGE)
box(axis, 9.25, 3.6, 1.55, 1.5, "verify", "one forward\nof the target\nover the tree", "#ffffff")
box(axis, 11.1, 3.6, 1.55, 1.5, "accept", "the target's own\ntoken, else stop;\nkeep cache rows", "#ffffff")
box(axis, 7.2, 0.4, 5.7, 1.8, "Drafters", "vanilla   pld   recycling   rest   lookahead   pia\nsam   sps   eagle3   sam_eagle3   sam[any]", ORANGE)
box(axis, 3.6, 0.4, 2.5, 1.8, "Records", "one line a generation:\nids, steps, times", PINK)
box(axis, 0.2, 0.4, 2.5, 1.8, "Results", "speed-ups, intervals,\naccuracy, report,\ntrace viewer", GREY)
arrow(axis, (2.8, 4.95), (3.5, 4.95))
arrow(axis, (6.2, 4.95), (7.1, 4.95), "prompt", (0, 0.12))
arrow(axis, (8.2, 2.3), (8.2, 3.5), "draft", (-0.4, -0.1))
arrow(axis, (11.9, 3.5), (11.9, 2.3), "what was emitted", (-0.85, -0.08))
arrow(axis, (9.02, 4.3), (9.18, 4.3))
arrow(axis, (10.87, 4.3), (11.03, 4.3))
arrow(axis, (7.1, 3.6), (6.0, 2.3), "every generation", (-0.75, 0.05))
arrow(axis, (3.5, 1.3), (2.8, 1.3))
figure.savefig(Path(__file__).with_name("framework.png"), dpi=130, bbox_inches="tight")
