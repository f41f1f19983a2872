"""Write the report of a folder of runs: python -m evaluation.report DIR [--out DIR/report]

One self-contained page (report.html), the figures as PNG and SVG, and every table as Markdown or LaTeX.
"""

import argparse
import json
import re
from functools import partial
from pathlib import Path

from evaluation import redundancy
from evaluation.comparison import Setting, gather
from evaluation.errors import guarded
from evaluation.report import figures, page, viewer
from evaluation.report.curve import calibration
from evaluation.report.curve import table as curve_table
from evaluation.tables import FORMATS, render
from evaluation.writer import write_atomically
from model.errors import UserError


def scores_of(settings: list[Setting], notices: list[str]) -> dict[str, float]:
    """Accuracy by records file, where `evaluation.score` has run."""
    found = {}
    for run in (run for s in settings for m in s.methods for run in m.runs):
        file = run.path.with_suffix(".scores.json")
        if not file.exists():
            continue
        try:
            found[str(run.path)] = float(json.loads(file.read_text(encoding="utf-8"))["summary"]["accuracy"])
        except (OSError, ValueError, LookupError, TypeError):
            notices.append(f"{file} is damaged and left out: python -m evaluation.score DIR writes it anew")
    if not found:
        notices.append("no accuracy yet: python -m evaluation.score DIR")
    return found


def redundancy_of(settings: list[Setting], notices: list[str]) -> dict[str, list[page.Table]]:
    """The redundancy tables of every setting: one text for all lossless methods, vanilla's where it is there."""
    found = {}
    for setting in settings:
        texts = (setting.vanilla or setting.methods[0]).texts
        kept = redundancy.within_limit(texts)
        if len(kept) < len(texts):
            notices.append(f"{setting.title}: redundancy is that of the first {len({r.question_id for r in kept})} questions")
        found[setting.title] = redundancy.tables(kept)
    return found


def draw(settings: list[Setting], redundant: dict[str, list[page.Table]], out: Path, notices: list[str]) -> dict[str, str]:
    """Every figure that can be drawn, as SVG by name; what cannot is said."""
    with_base = [s for s in settings if s.vanilla and s.vanilla.totals]
    spoked = [s for s in with_base if len(set(figures.categories(s).values())) > 2]
    if with_base and not spoked:
        notices.append("no radar plot: the questions have fewer than three categories")
    grams, matches = ({title: tables[i][2] for title, tables in redundant.items()} for i in (0, 1))
    makers = {"speed": (figures.speed_bars, with_base), "cost": (figures.mat_against_cost, with_base),
              "radar": (figures.radar, spoked), "position": (figures.acceptance_by_position, settings),
              "generation": (figures.acceptance_by_generation, settings), "time": (figures.time_breakdown, settings),
              "recurrence": (partial(figures.recurrence, grams), settings),
              "matches": (partial(figures.match_lengths, matches), settings)}
    made = {name: figures.save(make(shown), out, name) for name, (make, shown) in makers.items() if shown}
    if scores := scores_of(settings, notices):
        made["accuracy"] = figures.save(figures.accuracy(settings, scores), out, "accuracy")
    return made


def heading(text: str, form: str) -> str:
    """A heading in the tables file's own format."""
    if form == "latex":
        return "\\section*{" + re.sub(r"([_%&#])", r"\\\1", text) + "}"
    return f"## {text}" if form == "markdown" else text


def explained(text: str, form: str) -> str:
    """The definitions in the tables file's own format."""
    return {"latex": f"\\begin{{verbatim}}\n{text}\n\\end{{verbatim}}", "markdown": f"```\n{text}\n```"}.get(form, text)


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
    curve = calibration(args.folder, settings, notices)
    redundant = redundancy_of(settings, notices)
    made = draw(settings, redundant, out, notices)
    traces = viewer.build(settings, notices)
    tables = {s.title: page.tables(s, curve, redundant[s.title]) for s in settings}
    if curve:
        tables["This machine"] = [("Cost of verifying n nodes", *curve_table(curve))]
    formulas = page.definitions(curve, settings)
    models = dict.fromkeys(run.model_name for s in settings for m in s.methods for run in m.runs if run.model_name)
    title = f"SpecTTS-Bench: {', '.join(models) or args.folder.name}"
    write_atomically(out / "report.html", page.render(title, tables, made, traces, notices, formulas))
    suffix = {"plain": "txt", "markdown": "md", "latex": "tex"}[args.format]
    text = "\n\n".join(f"{heading(f'{name}: {what}', args.format)}\n\n{render(header, rows, args.format)}"
                       for name, found in tables.items() for what, header, rows in found)
    write_atomically(out / f"tables.{suffix}", text + "\n\n" + explained(formulas, args.format) + "\n")
    for notice in notices:
        print(f"note: {notice}")
    print(f"report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    guarded(main)()
