"""Do the speed-ups survive a busy machine? The mini matrix alone, and beside a load.

    python bench/loaded.py [--question-end 8] [--out FOLDER]

The load is a busy loop on every core, for half of the time: on for a random time around
`--seconds`, off as long. Prints each method's speed-up alone and beside the load, as corrected by
the control and as timed, and how far the two are apart; the aim is 10 %.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

CODE = Path(__file__).resolve().parents[1]
AIM = 0.10


def burn(until: float) -> None:
    """One busy core."""
    while time.monotonic() < until:
        sum(range(1000))


def load(seconds: float) -> None:
    """Busy loops on all cores, on and off, until it is ended."""
    rng = random.Random(0)
    while True:
        for is_on in (True, False):
            until = time.monotonic() + seconds * rng.uniform(0.5, 1.5)
            if is_on:
                cores = os.cpu_count() or 1
                busy = [multiprocessing.Process(target=burn, args=(until,)) for _ in range(cores)]
                for process in busy:
                    process.start()
                for process in busy:
                    process.join()
            time.sleep(max(0.0, until - time.monotonic()))


def run_matrix(out: Path, flags: list[str]) -> list[dict]:
    """The mini matrix into this folder; the rows of its speed table."""
    environment = {**os.environ, "OUT": str(out), "LIMIT": os.environ.get("LIMIT", "8")}
    command = ["bash", str(CODE / "scripts" / "mini.sh"), *flags]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return json.loads((out / "speed.json").read_text())


def run_loaded(out: Path, flags: list[str], seconds: float) -> list[dict]:
    """The same beside the load."""
    busy = multiprocessing.Process(target=load, args=(seconds,))
    busy.start()
    try:
        return run_matrix(out, flags)
    finally:
        # its busy loops end by themselves
        busy.terminate()
        busy.join()


def compare(alone: list[dict], loaded: list[dict]) -> list[list[str]]:
    """A line a method and setting."""
    by_key = {(row["title"], row["method"]): row for row in loaded}
    rows = []
    for row in alone:
        other = by_key[row["title"], row["method"]]
        if row["method"] == "vanilla":
            continue
        apart = other["speed_up"] / row["speed_up"] - 1
        as_timed = other["speed_up_as_timed"] / row["speed_up_as_timed"] - 1
        rows.append(
            [
                row["title"],
                row["method"],
                f"{row['speed_up']:.2f}",
                f"{other['speed_up']:.2f}",
                f"{apart:+.1%}",
                f"{other['speed_up_as_timed']:.2f}",
                f"{as_timed:+.1%}",
                other["doubt"] or "yes",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="keep the records here")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load, then of none")
    args, flags = parser.parse_known_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="loaded-"))
    try:
        alone = run_matrix(out / "alone", flags)
        loaded = run_loaded(out / "loaded", flags, args.seconds)
    finally:
        if not args.out:
            shutil.rmtree(out, ignore_errors=True)
    rows = compare(alone, loaded)
    header = ("setting", "method", "alone", "loaded", "apart", "as timed", "apart", "believed")
    print(tabulate(rows, headers=header))
    worst = max(abs(float(row[4].rstrip("%"))) for row in rows) / 100
    print(f"farthest apart: {worst:.1%} (aim: {AIM:.0%})")
    sys.exit(int(worst > AIM))


if __name__ == "__main__":
    main()
