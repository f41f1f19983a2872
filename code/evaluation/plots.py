"""Figures from table rows; matplotlib draws. Colours are those of Okabe and Ito (2008), safe for colour-blind eyes."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from model.errors import UserError

# a method has one colour in every figure and in the trace viewer; the last two are Tol's (2021), darker than all others
COLOURS = {"vanilla": "#777777", "eagle3": "#D55E00", "lookahead": "#882255", "pia": "#CC79A7", "pld": "#56B4E9",
           "recycling": "#009E73", "rest": "#332288", "sam": "#0072B2", "sam_eagle3": "#E69F00", "sps": "#B09000"}
OTHER = ("#44AA99", "#AA4499", "#999933", "#661100")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


def colour(name: str) -> str:
    """Of a method by its name; of one that is not ours, or is a variant, by what its name adds up to."""
    return COLOURS.get(name) or OTHER[sum(name.encode()) % len(OTHER)]


def marker(name: str) -> str:
    """Shapes beside colours: no two of our methods share both."""
    known = list(COLOURS)
    return MARKERS[known.index(name) % len(MARKERS) if name in known else sum(name.encode()) % len(MARKERS)]


def speed_ups(rows: list[dict[str, Any]], file: Path) -> None:
    """Bars of every method's speed-up with its interval, one panel a setting."""
    settings = list(dict.fromkeys(r["title"] for r in rows))
    figure, axes = plt.subplots(1, len(settings), figsize=(1.2 + 3.4 * len(settings), 3.4), squeeze=False, sharey=True)
    for axis, setting in zip(axes[0], settings):
        shown = [r for r in rows if r["title"] == setting and r["speed_up"] is not None]
        for i, r in enumerate(shown):
            low, high = (r["speed_up"] - r["low"], r["high"] - r["speed_up"])
            error = [[low], [high]] if low == low else None
            axis.bar(i, r["speed_up"], yerr=error, capsize=3, color=colour(r["method"]))
            axis.text(i, r["speed_up"] + (high if high == high else 0) + 0.03, f"{r['speed_up']:.2f}", ha="center", fontsize=8)
        axis.set_xticks(range(len(shown)), [r["method"] for r in shown], rotation=40, ha="right")
        axis.axhline(1, color="#666666", linewidth=0.8, linestyle="--")
        axis.set_title(setting, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("speed-up over vanilla")
    figure.tight_layout()
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {file}: {error}") from None
    finally:
        plt.close(figure)
