"""Figures from table rows; matplotlib draws. Colours are those of Okabe and Ito (2008), safe for colour-blind eyes."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999", "#332288", "#882255")


def speed_ups(rows: list[dict[str, Any]], file: Path) -> None:
    """Bars of every method's speed-up with its interval, one panel a setting."""
    settings = list(dict.fromkeys(tuple(r["setting"]) for r in rows))
    figure, axes = plt.subplots(1, len(settings), figsize=(1.2 + 3.4 * len(settings), 3.4), squeeze=False, sharey=True)
    methods = sorted({r["method"] for r in rows}, key=lambda m: (m != "vanilla", m))
    for axis, setting in zip(axes[0], settings):
        shown = [r for r in rows if tuple(r["setting"]) == setting and r["speed_up"] is not None]
        for i, r in enumerate(shown):
            low, high = (r["speed_up"] - r["low"], r["high"] - r["speed_up"])
            error = [[low], [high]] if low == low else None
            axis.bar(i, r["speed_up"], yerr=error, capsize=3, color=COLOURS[methods.index(r["method"]) % len(COLOURS)])
            axis.text(i, r["speed_up"] + (high if high == high else 0) + 0.03, f"{r['speed_up']:.2f}", ha="center", fontsize=8)
        axis.set_xticks(range(len(shown)), [r["method"] for r in shown], rotation=40, ha="right")
        axis.axhline(1, color="#666666", linewidth=0.8, linestyle="--")
        axis.set_title(f"{setting[0]}, T = {setting[1]:g}" if setting[0] else "", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("speed-up over vanilla")
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    plt.close(figure)
