"""The report's page: tables, inlined figures and the viewer in one HTML file that needs nothing else."""

import html
import json
from importlib.resources import files
from typing import Any

from tabulate import tabulate

from evaluation import acceptance, metrics, redundancy, verdicts
from evaluation.comparison import ODD, Method, Setting
from evaluation.metrics import SpeedUp
from evaluation.report.curve import predicted
from evaluation.tables import number, percent

CAPTIONS = {
    "speed": ("Speed-up", "Tokens per second over vanilla's on the same questions; bars are 95 % intervals over questions."),
    "cost": ("Tokens a step against the cost of a step", "Speed-up is MAT / cost: equal speed-ups lie on the dashed lines."),
    "radar": ("Speed-up by category", "One spoke a category of questions; the outer ring is the largest speed-up."),
    "position": ("Acceptance by draft position", "Of the drafts of at least d nodes: the share accepted up to d."),
    "generation": ("Acceptance by round or sample", "What remembering earlier generations of a question is worth."),
    "time": ("Where time goes", "Milliseconds a step, the prefill spread over the steps; other is the loop around."),
    "recurrence": ("Redundancy", "Share of n-grams written before: in the same text, in other samples, in earlier rounds."),
    "matches": ("Longest earlier match", "How much of the text so far repeats what came before, token by token."),
    "accuracy": ("Accuracy", "Lossless methods keep vanilla's accuracy exactly."),
}
Table = tuple[str, list[str], list[list[str]]]


def _interval(up: SpeedUp | None) -> str:
    if up is None:
        return "-"
    return number(up.ratio) + (f" [{number(up.low)}, {number(up.high)}]" if up.low == up.low else "")


def speed_table(setting: Setting, curve: dict[str, Any] | None) -> tuple[list[str], list[list[str]]]:
    """Speed, acceptance and cost of every method."""
    header = ["method", "questions", "repeats", "tokens/s", "speed-up [95 %]", "mean of ratios", "MAT (tokens/step)",
              "drafted (nodes/step)", "cost (vanilla steps)", "predicted speed-up", "memory scope"]
    return header, [_speed_row(setting, m, curve) for m in setting.methods]


def _speed_row(setting: Setting, method: Method, curve: dict[str, Any] | None) -> list[str]:
    up, records = setting.speed_up(method), method.on(setting.shared(method))
    mat = metrics.mean_accepted_tokens(records)
    return [method.name, str(len(setting.shared(method))), str(len(method.runs)),
            number(metrics.speed(method.totals), 1) if method.totals else "-", _interval(up), number(up and up.mean),
            number(mat), number(metrics.drafted_per_step(records), 1), number(up and mat / up.ratio),
            number(predicted(method, setting, curve)) if curve else "-", records[0].memory_scope if records else "-"]


def health_table(setting: Setting) -> tuple[list[str], list[list[str]]]:
    """Generations cut, looping, failed; speed-ups without the questions that have them; memory and energy."""
    rows = []
    for method in setting.methods:
        records, every = method.records, [r for run in method.runs for r in run.records]
        clean, left = setting.speed_up(method, ODD), setting.shared(method, ODD)
        tokens, memory = sum(r.new_tokens for r in records), max((r.peak_memory or 0 for r in records), default=0)
        energy = sum(r.energy for r in records) / tokens if tokens and all(r.energy is not None for r in records) else None
        counts = [sum(r.finish_reason == "length" for r in records), len(method.looping), sum(r.failed for r in every)]
        rows.append([method.name, str(len(every)), *map(str, counts), _interval(clean), str(len(left)),
                     number(memory / 1e9), number(energy, 3)])
    return ["method", "generations", "cut", "looping", "failed", "speed-up without cut or looping [95 %]", "on questions",
            "peak memory (GB)", "energy (J/token)"], rows


def acceptance_table(setting: Setting) -> tuple[list[str], list[list[str]]]:
    """MAT by phase, by thirds of the output, and by who drafted."""
    rows = []
    for method in setting.methods:
        phases = acceptance.by_phase(method.records, method.end_think_id)
        thirds = acceptance.by_place(method.records, parts=3)
        drafters = "; ".join(f"{name} {t.mat:.2f} ({percent(t.steps / max(1, sum(x.steps for x in thirds)))} of steps)"
                             for name, t in acceptance.by_source(method.records).items())
        rows.append([method.name, *(number(phases[p].mat) if p in phases else "-" for p in ("thinking", "answer")),
                     *(number(t.mat) for t in thirds), drafters])
    return ["method", "thinking", "answer", "first third", "second", "last", "by who drafted"], rows


def generation_table(setting: Setting) -> tuple[list[str], list[list[str]]]:
    """MAT of every round or sample."""
    what = setting.numbered
    tallies = {m.name: acceptance.grouped(m.records, lambda r: getattr(r, what)) for m in setting.methods}
    numbers = sorted({n for t in tallies.values() for n in t})
    return ["method", *(f"{what} {n + 1}" for n in numbers)], [
        [name, *(number(t[n].mat) if n in t else "-" for n in numbers)] for name, t in tallies.items()]


def position_table(setting: Setting, most: int = 12) -> tuple[list[str], list[list[str]]]:
    """Share of drafts of at least d nodes that were accepted up to position d."""
    rates = {m.name: acceptance.by_draft_position(m.records).rates()[:most] for m in setting.methods}
    deepest = max(map(len, rates.values()), default=0)
    return ["method", *(f"d = {d + 1}" for d in range(deepest))], [
        [name, *map(percent, found), *["-"] * (deepest - len(found))] for name, found in rates.items() if found]


def time_table(setting: Setting) -> tuple[list[str], list[list[str]]]:
    """Milliseconds a step and seconds in total, by phase."""
    rows, names = [], ("draft", "verify", "accept", "other")
    for method in setting.methods:
        phases, steps = method.phases(), max(1, method.steps)
        wall = sum(r.wall_time for r in method.records)
        rows.append([method.name, *(number(1e3 * phases[p] / steps, 3) for p in names),
                     *(number(phases[p], 1) for p in acceptance.PHASES), number(wall, 1)])
    return ["method", *(f"{p} (ms/step)" for p in names), *(f"{p} (s)" for p in acceptance.PHASES), "total (s)"], rows


def verdict_table(setting: Setting) -> tuple[list[str], list[list[str]]]:
    """Every pair of methods, vanilla against itself first."""
    rows = [[v.a, v.b, f"{number(v.ratio)} [{number(v.low)}, {number(v.high)}]", text, percent(v.could_show)]
            for v, text in [*((n, "the noise") for n in setting.noise), *((v, v.text) for v in setting.judged())]]
    return ["a", "b", "a / b [95 %]", "verdict", "could show"], rows


TABLES = {"Health, memory, energy": health_table, "Acceptance (mean accepted tokens)": acceptance_table,
          "Acceptance by round or sample (mean accepted tokens)": generation_table,
          "Acceptance by draft position": position_table, "Time": time_table, "Which is faster": verdict_table}


def tables(setting: Setting, curve: dict[str, Any] | None, redundant: list[Table]) -> list[Table]:
    """(title, header, rows) of everything tabulated for a setting."""
    made = [("Speed, acceptance, cost", *speed_table(setting, curve)), *((t, *make(setting)) for t, make in TABLES.items())]
    return [table for table in [*made, *redundant] if table[2]]


def definitions(curve: dict[str, Any] | None, settings: list[Setting]) -> str:
    """Every formula, as printed beside the tables."""
    prediction = "predicted  MAT / (verify(n) + draft), in units of verify(1): the cost curve measured by evaluation.calibrate"
    if curve is None:
        prediction = ("predicted  needs a cost curve: "
                      "python -m evaluation.calibrate --model-path MODEL --out DIR/calibration.json")
    once = [s.title for s in settings if not s.noise]
    unknown = [f"           (not known here for: {'; '.join(once)})"] if once else []
    return "\n".join([metrics.DEFINITIONS, verdicts.DEFINITIONS, *unknown, acceptance.DEFINITIONS, redundancy.DEFINITIONS,
                      prediction])


def render(title: str, tabulated: dict[str, list[Table]], figures: dict[str, str], viewer: dict[str, Any],
           notices: list[str], explained: str) -> str:
    """The whole page; `tabulated` holds each setting's tables by its title."""
    resource = files("evaluation.report")
    parts = [f"<h1>{html.escape(title)}</h1>", *(f'<p class="notice">{html.escape(n)}</p>' for n in notices)]
    for name, svg in figures.items():
        heading, caption = CAPTIONS[name]
        parts.append(f'<h2>{heading}</h2><p>{caption}</p><figure id="figure-{name}">{svg}</figure>')
    for name, found in tabulated.items():
        parts.append(f"<h2>{html.escape(name)}</h2>")
        for heading, header, rows in found:
            table = tabulate(rows, headers=header, tablefmt="html", disable_numparse=True)
            parts.append(f'<h4>{heading}</h4><div class="scroll">{table}</div>')
    parts.append(f"<h2>Definitions</h2><pre>{html.escape(explained)}</pre>")
    parts.append(_VIEWER)
    traces = json.dumps(viewer, ensure_ascii=False).replace("</", "<\\/")
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{resource.joinpath('style.css').read_text()}</style><body>{''.join(parts)}"
            f'<script type="application/json" id="traces">{traces}</script>'
            f"<script>{resource.joinpath('viewer.js').read_text()}</script></body></html>")


_VIEWER = """<h2 id="viewer">Trace viewer</h2>
<p>Every token is coloured by who drafted it; the target's own tokens are grey. A bar ends each step. Click a step, or walk
with the buttons or the arrow keys.</p><div class="controls"><select id="setting"></select><select id="text"></select>
<button id="back">back</button><button id="next">next step</button><button id="all">all</button><span id="step"></span></div>
<div class="controls" id="methods"></div><div id="legend"></div><div id="columns"></div>"""
