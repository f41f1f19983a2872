"""The report's page: tables, inlined figures and the viewer in one HTML file that needs nothing else."""

import html
import json
from importlib.resources import files
from typing import Any

from tabulate import tabulate

from evaluation import acceptance, metrics, verdicts
from evaluation.report.data import Method, Setting, predicted
from evaluation.tables import number, percent

CAPTIONS = {
    "speed": ("Speed-up", "Tokens per second over vanilla's on the same questions; bars are 95 % intervals over questions."),
    "cost": ("Tokens a step against the cost of a step", "Speed-up is MAT / cost: equal speed-ups lie on the dashed lines."),
    "radar": ("Speed-up by category", "One spoke a category of questions."),
    "position": ("Acceptance by draft position", "Among steps that drafted: how often at least d drafted tokens were accepted."),
    "generation": ("Acceptance by round or sample", "What remembering earlier generations of a question is worth."),
    "time": ("Where time goes", "Milliseconds a step; draft is proposing and learning, other the loop around."),
    "recurrence": ("Redundancy", "Share of n-grams written before: in the same text, in earlier samples, in earlier rounds."),
    "matches": ("Longest earlier match", "How much of the text so far repeats what came before, token by token."),
    "accuracy": ("Accuracy beside speed", "Lossless methods keep vanilla's accuracy exactly."),
}


def speed_table(setting: Setting, curve: dict[str, Any] | None) -> tuple[list[str], list[list[str]]]:
    """Speed, acceptance and cost of every method."""
    header = ["method", "questions", "repeats", "tokens/s", "speed-up [95 %]", "mean of ratios", "without cut or looping",
              "MAT", "drafted", "cost", "predicted", "scope", "cut", "looping", "failed", "peak memory (GB)", "energy (J/token)"]
    return header, [_speed_row(setting, m, curve) for m in setting.methods]


def _speed_row(setting: Setting, method: Method, curve: dict[str, Any] | None) -> list[str]:
    up, clean = setting.speed_up(method), setting.speed_up(method, without=("cut", "looping"))
    mat, records = metrics.mean_accepted_tokens(method.records), method.records
    interval = f" [{number(up.low)}, {number(up.high)}]" if up and up.low == up.low else ""
    tokens = sum(r.new_tokens for r in records)
    memory = max((r.peak_memory or 0 for r in records), default=0)
    energy = sum(r.energy for r in records) / tokens if tokens and all(r.energy is not None for r in records) else None
    counts = [sum(r.finish_reason == "length" for r in records), sum(map(acceptance.looping, records)),
              sum(r.failed for run in method.runs for r in run.records)]
    return [method.name, str(len(method.totals)), str(len(method.runs)),
            number(metrics.speed(method.totals), 1) if method.totals else "-",
            number(up and up.ratio) + interval, number(up and up.mean), number(clean and clean.ratio), number(mat),
            number(metrics.drafted_per_step(records), 1), number(up and mat / up.ratio),
            number(predicted(method, setting, curve)) if curve and records else "-",
            records[0].memory_scope if records else "-", *map(str, counts), number(memory / 1e9), number(energy, 3)]


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


def time_table(setting: Setting) -> tuple[list[str], list[list[str]]]:
    """Milliseconds by phase, a step and in total."""
    rows = []
    for method in setting.methods:
        phases, wall = method.phases(), sum(r.wall_time for r in method.records)
        rows.append([method.name, *(number(1e3 * phases[p], 3) for p in ("draft", "verify", "accept", "other")),
                     number(1e3 * phases["prefill"], 1), number(wall, 1)])
    return ["method", "draft (ms/step)", "verify", "accept and cache", "other", "prefill (ms/generation)", "total (s)"], rows


def verdict_table(setting: Setting) -> tuple[list[str], list[list[str]]]:
    """Every pair of methods."""
    found = verdicts.all_pairs({m.name: m.totals for m in setting.methods if m.totals})
    noise = setting.noise()
    rows = [[v.a, v.b, f"{number(v.ratio)} [{number(v.low)}, {number(v.high)}]", v.text, percent(v.could_show)]
            for v in [*([noise] if noise else []), *found]]
    return ["a", "b", "a / b [95 %]", "verdict", "could show"], rows


TABLES = {"Speed, acceptance, cost": speed_table, "Acceptance (mean accepted tokens)": acceptance_table,
          "Time": time_table, "Which is faster": verdict_table}


def tables(setting: Setting, curve: dict[str, Any] | None) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of everything tabulated for a setting."""
    return [(title, *(make(setting, curve) if make is speed_table else make(setting))) for title, make in TABLES.items()]


def definitions(curve: dict[str, Any] | None) -> str:
    """Every formula, as printed beside the tables."""
    prediction = "predicted  MAT / (verify(n) + draft), in units of verify(1): the cost curve measured by evaluation.calibrate"
    if curve is None:
        prediction = ("predicted  needs a cost curve: "
                      "python -m evaluation.calibrate --model-path MODEL --out DIR/calibration.json")
    return "\n".join([metrics.DEFINITIONS, verdicts.DEFINITIONS, acceptance.LOOP_RULE, prediction])


def render(title: str, settings: list[Setting], figures: dict[str, str], viewer: dict[str, Any], notices: list[str],
           curve: dict[str, Any] | None) -> str:
    """The whole page."""
    resource = files("evaluation.report")
    parts = [f"<h1>{html.escape(title)}</h1>", *(f'<p class="notice">{html.escape(n)}</p>' for n in notices)]
    for name, svg in figures.items():
        heading, caption = CAPTIONS[name]
        parts.append(f'<h2>{heading}</h2><p>{caption}</p><figure id="figure-{name}">{svg}</figure>')
    for setting in settings:
        parts.append(f"<h2>{html.escape(setting.title)}</h2>")
        for heading, header, rows in tables(setting, curve):
            table = tabulate(rows, headers=header, tablefmt="html", disable_numparse=True)
            parts.append(f'<h4>{heading}</h4><div class="scroll">{table}</div>')
    parts.append(f"<h2>Definitions</h2><pre>{html.escape(definitions(curve))}</pre>")
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
