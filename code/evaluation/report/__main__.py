"""Write the report of a folder of runs: python -m evaluation.report DIR [--out DIR/report]

One self-contained page (report.html), the figures as PNG and SVG, and every table as Markdown or LaTeX.
"""

import argparse
import json
from pathlib import Path

from evaluation.errors import guarded
from evaluation.report import figures, page, viewer
from evaluation.report.data import Setting, calibration, gather
from evaluation.tables import FORMATS, render
from evaluation.writer import write_atomically
from model.errors import UserError


def scores_of(settings: list[Setting]) -> dict[str, float]:
    """Accuracy by records file, where `evaluation.score` has run."""
    found = {}
    for run in (run for s in settings for m in s.methods for run in m.runs):
        file = run.path.with_suffix(".scores.json")
        if file.exists():
            found[str(run.path)] = json.loads(file.read_text(encoding="utf-8"))["summary"]["accuracy"]
    return found


def draw(settings: list[Setting], out: Path, notices: list[str]) -> dict[str, str]:
    """Every figure that can be drawn, as SVG by name; what cannot is said."""
    with_base = [s for s in settings if s.vanilla]
    makers = {"speed": (figures.speed_bars, with_base), "cost": (figures.mat_against_cost, with_base),
              "radar": (figures.radar, with_base), "position": (figures.acceptance_by_position, settings),
              "generation": (figures.acceptance_by_generation, settings), "time": (figures.time_breakdown, settings),
              "recurrence": (figures.recurrence, settings), "matches": (figures.match_lengths, settings)}
    made = {name: figures.save(make(shown), out, name) for name, (make, shown) in makers.items() if shown}
    if scores := scores_of(settings):
        made["accuracy"] = figures.save(figures.accuracy_beside_speed(settings, scores), out, "accuracy")
    else:
        notices.append("no accuracy yet: python -m evaluation.score DIR")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder with records below it")
    parser.add_argument("--out", type=Path, help="where the report goes; default DIR/report")
    parser.add_argument("--format", choices=tuple(FORMATS), default="markdown", help="of the tables file")
    args = parser.parse_args()
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is not a folder")
    notices: list[str] = []
    settings = [s for s in gather(args.folder, notices) if any(m.records for m in s.methods)]
    if not settings:
        raise UserError(f"{args.folder} holds no finished generation yet")
    out = args.out or args.folder / "report"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    curve = calibration(args.folder)
    made = draw(settings, out, notices)
    traces = viewer.build(settings, notices)
    folder = Path(next((m.runs[0].manifest.get("model_folder", "") for s in settings for m in s.methods), ""))
    title = f"SpecTTS-Bench: {(folder.parent if folder.name == 'target' else folder).name or args.folder.name}"
    write_atomically(out / "report.html", page.render(title, settings, made, traces, notices, curve))
    suffix = {"plain": "txt", "markdown": "md", "latex": "tex"}[args.format]
    text = "\n\n".join(f"{s.title}: {heading}\n\n{render(header, rows, args.format)}"
                       for s in settings for heading, header, rows in page.tables(s, curve))
    write_atomically(out / f"tables.{suffix}", text + "\n\n" + page.definitions(curve) + "\n")
    for notice in notices:
        print(f"note: {notice}")
    print(f"report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    guarded(main)()
