"""Statistics against definitions and other libraries; the report in a real browser."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from evaluation import leaderboard, speed
from evaluation import redundancy as redundancy_command
from evaluation.analysis import acceptance, metrics, redundancy, verdicts
from evaluation.analysis.answer import answer
from evaluation.analysis.comparison import gather
from evaluation.analysis.sameness import Sameness
from evaluation.analysis.scores_file import Scores
from evaluation.analysis.verdicts import PairVerdict
from evaluation.records.manifest import Manifest
from evaluation.records.runs import find_runs
from evaluation.records.totals import Total, by_question
from evaluation.records.writer import RecordWriter
from evaluation.report import __main__ as report
from evaluation.report.tables import verdict_text
from evaluation.tasks.boxed import last_boxed
from model.errors import UserError
from tests.test_bad_input import stopped
from tests.test_harness import CODE, record


# --- numbers --------------------------------------------------------------------------------------
def totals(seconds: list[float]) -> dict[str, Total]:
    return {str(i): Total(100, s) for i, s in enumerate(seconds)}


def test_speed_up_of_known_totals():
    up = metrics.speed_up(totals([1, 2, 4]), totals([2, 4, 4]))
    assert (
        up.ratio == pytest.approx(10 / 7) and up.mean == pytest.approx(5 / 3) and up.questions == 3
    )
    assert up.low <= up.ratio <= up.high
    alone = metrics.speed_up(totals([1]), totals([2]))
    assert alone.ratio == 2 and np.isnan(alone.low)


def test_a_question_with_a_failed_generation_is_left_out():
    good, bad = record("1"), record("2", finish_reason="failed", new_tokens=None, wall_time=None)
    assert set(by_question([good, record("2"), bad])) == {"1"}


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, covered, runs = np.random.default_rng(0), 0, 60
    for _ in range(runs):
        base = rng.uniform(1, 3, 25)
        mine = base / (1.5 * rng.lognormal(0, 0.2, 25))
        up = metrics.speed_up(totals(mine.tolist()), totals(base.tolist()))
        truth = 1.5 * np.exp(0.02)
        covered += up.low <= truth * 1.03 and up.high >= truth * 0.97
    assert covered / runs > 0.85


def test_verdicts_tell_apart_what_differs_and_nothing_else():
    rng = np.random.default_rng(1)
    base = rng.uniform(1, 3, 30)
    same, faster = base * rng.lognormal(0, 0.05, 30), base / 1.3 * rng.lognormal(0, 0.05, 30)
    found = {
        (v.a, v.b): v
        for v in verdicts.all_pairs(
            {"a": totals(base.tolist()), "b": totals(same.tolist()), "c": totals(faster.tolist())}
        )
    }
    assert all(v.winner == "c" for (a, _), v in found.items() if a == "c")
    (tie,) = [v for pair, v in found.items() if "c" not in pair]
    assert tie.outcome == "not distinguishable" and 0.005 < tie.could_show < 0.1


def test_smallest_difference_has_the_power_it_claims():
    """At the stated difference a paired t-test on log-ratios rejects in about 80 % of runs."""
    rng, hits, runs, sd = np.random.default_rng(2), 0, 400, 0.1
    base = np.ones(40)
    shown = np.log1p(
        verdicts.smallest_difference(
            metrics.Paired(base, base, base, np.exp(rng.normal(0, sd, 40)))
        )
    )
    for _ in range(runs):
        hits += stats.ttest_1samp(rng.normal(shown, sd, 40), 0).pvalue < 0.05
    assert 0.6 < hits / runs < 0.95


def test_acceptance_by_everything():
    r = record(
        output_ids=[9, 1, 2, 7, 3, 4, 5, 6],
        new_tokens=8,
        accept_lengths=[3, 1, 3],
        draft_lengths=[4, 0, 2],
        draft_source=[["sam", 1], ["none", 1], ["eagle3", 1]],
    )
    assert (
        acceptance.by_phase([r], 7)["thinking"].emitted == 3
        and acceptance.by_phase([r], 7)["answer"].emitted == 4
    )
    assert set(acceptance.by_phase([r], None)) == {"thinking"}
    assert {k: t.mat for k, t in acceptance.by_source([r]).items()} == {
        "sam": 3,
        "none": 1,
        "eagle3": 3,
    }
    survival = acceptance.by_draft_position([r])
    assert [survival.rate(d) for d in (1, 2, 3)] == [1, 1, 0]
    assert sum(t.emitted for t in acceptance.by_place([r])) == 7


@pytest.mark.parametrize(
    "ids, loops",
    [
        ([1, 2, 3] * 40, True),
        (list(range(150)), False),
        ([*range(100), *[5] * 70], True),
        ([1, 2] * 10, False),
    ],
)
def test_looping_rule(ids, loops):
    assert acceptance.looping(record(output_ids=ids, finish_reason="length")) is loops


def test_redundancy_counts_by_hand():
    first, second = (
        record(sample=0, output_ids=[1, 2, 1, 2]),
        record(sample=1, output_ids=[1, 2, 5]),
    )
    found = redundancy.recurrence([first, second], 2)
    # 2-grams: 12 21 12 | 12 25: own once, in the other sample once
    assert found.same_text == pytest.approx(1 / 5) and found.other_samples == pytest.approx(1 / 5)
    assert found.anywhere == pytest.approx(2 / 5) and found.earlier_rounds == 0
    bins = redundancy.longest_matches([first, second])
    assert (
        bins.whole_question[redundancy.MATCHES.index(2)]
        > bins.same_text[redundancy.MATCHES.index(2)]
    )


def test_last_boxed_balances_braces():
    assert last_boxed("\\boxed{1} then \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert last_boxed("\\boxed{7} and \\boxed{unclosed") == "7"
    assert last_boxed("nothing") is None


# --- a synthetic run, its report, table and leaderboard -------------------------------------------
def synthetic(
    folder: Path,
    questions: int = 6,
    tokens: int = 60,
    methods=("vanilla", "pld", "sam"),
    seed: int = 0,
    **settings,
) -> Path:
    rng = np.random.default_rng(seed)
    texts = {
        (q, s): rng.integers(0, 50, tokens).tolist() for q in range(questions) for s in range(2)
    }
    for method in methods:
        path = folder / f"{method}.jsonl"
        book = {
            "settings": {"model": "m", "seed": 0, "questions_hash": "h", **settings},
            "questions": questions,
            "end_think_id": 7,
            "device": f"machine {seed}",
        }
        with RecordWriter(path, Manifest(book), 2) as writer:
            for q in range(questions):
                writer.append([made(method, q, s, texts[q, s], rng) for s in range(2)])
    return folder


def made(method: str, q: int, s: int, ids: list[int], rng: np.random.Generator):
    per_step = {"vanilla": 1, "pld": 2, "sam": 3}[method]
    steps = [per_step] * ((len(ids) - 1) // per_step)
    steps += [len(ids) - 1 - sum(steps)] * (sum(steps) < len(ids) - 1)
    seconds = 0.01 * len(steps) * rng.lognormal(0, 0.05)
    source = [["none" if method == "vanilla" else method, len(steps)]]
    return record(
        str(q),
        s,
        method=method,
        temperature=0.6,
        category=f"c{q % 4}",
        output_ids=ids,
        new_tokens=len(ids),
        accept_lengths=steps,
        draft_lengths=[0 if method == "vanilla" else 4] * len(steps),
        draft_source=source,
        wall_time=seconds,
        verify_time=0.8 * seconds,
        draft_time=0.1 * seconds,
        prefill_time=0.05 * seconds,
    )


def run(monkeypatch, main, *flags) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *map(str, flags)])
    assert main() == 0


def test_speed_table_and_plot(monkeypatch, capsys, tmp_path):
    synthetic(tmp_path)
    run(
        monkeypatch,
        speed.main,
        tmp_path,
        "--json",
        tmp_path / "s.json",
        "--plot",
        tmp_path / "s.png",
        "--format",
        "markdown",
    )
    rows = {r["method"]: r for r in json.loads((tmp_path / "s.json").read_text())}
    assert (
        rows["vanilla"]["speed_up"] == 1
        and 2.5 < rows["sam"]["speed_up"] < 3.5
        and rows["pld"]["mat"] == pytest.approx(59 / 30)
    )
    assert (tmp_path / "s.png").stat().st_size > 5000 and "| vanilla" in capsys.readouterr().out


def test_two_files_as_in_the_published_benchmark(monkeypatch, capsys, tmp_path):
    synthetic(tmp_path)
    run(
        monkeypatch,
        speed.main,
        "--file-path",
        tmp_path / "sam.jsonl",
        "--base-path",
        tmp_path / "vanilla.jsonl",
        "--formula",
        "original",
    )
    assert "speed-up" in capsys.readouterr().out


def test_a_question_file_is_not_taken_for_records(tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"question_id": 1, "turns": ["1 + 1?"]}\n')
    (tmp_path / "copied.jsonl").write_text(record("1", 0).line())
    notices: list[str] = []
    find_runs(tmp_path, notices, may_be_empty=True)
    assert len(notices) == 1 and "copied.jsonl: records without a manifest" in notices[0]


def test_leaderboard_ranks_and_refuses(monkeypatch, capsys, tmp_path):
    one, two, other = (
        synthetic(tmp_path / n, seed=i) for i, n in enumerate(("one", "two", "three"))
    )
    run(monkeypatch, leaderboard.main, one, two, "--csv", tmp_path / "l.csv")
    lines = (tmp_path / "l.csv").read_text().splitlines()
    assert len(lines) == 7 and lines[1].split(",")[1] == "sam"
    book = json.loads((other / "sam.manifest.json").read_text())
    book["settings"]["max_new_tokens"] = 5
    (other / "sam.manifest.json").write_text(json.dumps(book))
    monkeypatch.setattr(sys, "argv", ["leaderboard", str(one), str(other)])
    assert "not comparable (max_new_tokens" in stopped(leaderboard.main, capsys)


def test_report_bad_input(monkeypatch, capsys, tmp_path):
    def line(*flags):
        monkeypatch.setattr(sys, "argv", ["report", *map(str, flags)])
        return stopped(report.main, capsys)

    assert "not a folder" in line(tmp_path / "none")
    assert "no records" in line(tmp_path)
    synthetic(tmp_path)
    text = (tmp_path / "sam.jsonl").read_text()
    (tmp_path / "sam.jsonl").write_text(text.replace('"prompt_hash": "h"', '"prompt_hash": "x"'))
    assert "different prompts" in line(tmp_path)
    (tmp_path / "sam.jsonl").write_text(text.replace('"schema": 7', '"schema": 9'))
    assert "schema 9 is unknown" in line(tmp_path)


def test_a_report_over_an_unfinished_run_says_what_is_missing(monkeypatch, capsys, tmp_path):
    synthetic(tmp_path, methods=("pld", "sam"))
    lines = (tmp_path / "sam.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "sam.jsonl").write_text("".join(lines[:5]) + lines[5][:30])
    run(monkeypatch, report.main, tmp_path)
    said = capsys.readouterr().out
    assert "half-written" in said and "3 of 6 questions" in said and "no vanilla run" in said
    assert (tmp_path / "report" / "report.html").exists()


def test_a_method_that_only_failed_or_has_nothing_in_common_yet_is_said(
    monkeypatch, capsys, tmp_path
):
    synthetic(tmp_path)
    for method, change in (
        (
            "pld",
            {
                "finish_reason": "failed",
                "new_tokens": None,
                "wall_time": None,
                "accept_lengths": [],
                "draft_lengths": [],
                "draft_source": [],
                "output_ids": [],
                "error": "x",
            },
        ),
        ("sam", {}),
    ):
        path = tmp_path / f"{method}.jsonl"
        path.write_text(
            "".join(
                json.dumps({**json.loads(line), **change}) + "\n"
                for line in path.read_text().splitlines()
            )
        )
    run(monkeypatch, speed.main, tmp_path)
    run(monkeypatch, report.main, tmp_path)
    assert "pld.jsonl: no finished question in common" in capsys.readouterr().out


def test_other_budgets_are_said(monkeypatch, capsys, tmp_path):
    synthetic(tmp_path)
    book = json.loads((tmp_path / "sam.manifest.json").read_text())
    (tmp_path / "sam.manifest.json").write_text(
        json.dumps({**book, "settings": {**book["settings"], "dtype": "bfloat16"}})
    )
    run(monkeypatch, speed.main, tmp_path)
    assert "differ in dtype" in capsys.readouterr().out


def test_repeats_are_pooled_and_noise_is_shown(tmp_path):
    synthetic(tmp_path / "a", seed=0)
    synthetic(tmp_path / "b", seed=0)
    (setting,) = gather(tmp_path, [])
    (noise,) = setting.noise
    assert len(setting.vanilla.runs) == 2 and noise.outcome == "not distinguishable"
    assert setting.vanilla.totals["0"].tokens == 2 * 120
    texts = setting.vanilla.texts
    assert len(texts) == 12  # a repeat's text is no earlier text of the question
    assert redundancy.recurrence(texts, 8).other_samples < 0.1
    synthetic(tmp_path / "c", seed=0)
    (setting,) = gather(tmp_path, [])
    assert [(v.a[-1], v.b[-1]) for v in setting.noise] == [("1", "2"), ("1", "3"), ("2", "3")]


def test_runs_with_other_options_are_no_repeats(tmp_path, monkeypatch, capsys):
    synthetic(tmp_path / "a")
    synthetic(tmp_path / "b", methods=("sam",), memory_scope="request")
    (setting,) = gather(tmp_path, [])
    assert [m.name for m in setting.methods] == [
        "vanilla",
        "pld",
        "sam",
        "sam (memory_scope request)",
    ]
    run(monkeypatch, speed.main, tmp_path)
    assert "sam (memory_scope request)" in capsys.readouterr().out


def test_a_speed_up_within_the_noise_is_no_verdict():
    base = totals([1.0] * 8)
    (verdict,) = verdicts.all_pairs(
        {"a": totals([0.95, 0.96, 0.94, 0.95, 0.95, 0.96, 0.95, 0.94]), "b": base}
    )
    assert verdict.outcome == "a faster"
    (verdict,) = verdicts.all_pairs(
        {"a": totals([0.95, 0.96, 0.94, 0.95, 0.95, 0.96, 0.95, 0.94]), "b": base}, noise=1.1
    )
    assert verdict.outcome == "within the noise"
    (verdict,) = verdicts.all_pairs({"a": totals([0.5] * 5), "b": totals([1.0] * 5)})
    assert verdict_text(verdict) == "too few questions (5)"


def test_few_questions_are_not_told_apart_more_often_than_promised():
    """Two identical methods, 8 questions: the plain percentile interval says 'faster' in 14 % of
    runs.
    """
    rng, found, runs = np.random.default_rng(1), 0, 800
    for _ in range(runs):
        base = rng.lognormal(0, 1, 8)
        a, b = (
            {
                str(i): Total(int(1000 * t), t * noise)
                for i, (t, noise) in enumerate(zip(base, rng.lognormal(0, 0.1, 8)))
            }
            for _ in range(2)
        )
        found += verdicts.compare("a", "b", a, b).outcome != "not distinguishable"
    assert (
        found / runs < 0.11
    )  # 7 to 8 % expected; the plain interval's 14 % falls below this once in a hundred runs


def test_cost_and_acceptance_are_of_the_questions_the_speed_up_is_of(tmp_path):
    synthetic(tmp_path)
    path = tmp_path / "vanilla.jsonl"
    path.write_text(
        "".join(path.read_text().splitlines(keepends=True)[:4])
    )  # vanilla has finished two questions
    (setting,) = gather(tmp_path, [])
    sam = setting.methods[2]
    assert setting.common_questions(sam) == {"0", "1"} and {
        r.question_id for r in sam.records_on(setting.common_questions(sam))
    } == {"0", "1"}


def test_thinking_that_loops_is_counted_though_it_was_ended_by_force():
    thinking = [*range(100, 160), *[5, 6] * 60]
    ids = [*thinking, 90, 91, 7, 92, *range(200, 300)]
    looped = record(output_ids=ids, finish_reason="stop", forced_tokens=4)
    assert acceptance.looping(looped, 7) and not acceptance.looping(looped)


def test_draft_positions_count_only_drafts_that_reach_them():
    r = record(
        accept_lengths=[3] * 40 + [2] * 40,
        draft_lengths=[4] * 40 + [1] * 40,
        draft_source=[["sam", 80]],
    )
    assert acceptance.by_draft_position([r]).rates() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("damage", "said"),
    (
        (lambda f: (f / "sam.manifest.json").write_text("{"), "sam.manifest.json is damaged"),
        (lambda f: (f / "sam.manifest.json").write_text("[]"), "is no manifest"),
        (
            lambda f: (f / "sam.jsonl").write_text((f / "sam.jsonl").read_text() * 2),
            "12 generations twice",
        ),
        (
            lambda f: (f / "sam.jsonl").write_text(
                (f / "sam.jsonl").read_text() + (f / "pld.jsonl").read_text()
            ),
            "mixes runs",
        ),
        (
            lambda f: (f / "sam.jsonl").write_text(
                (f / "sam.jsonl").read_text().replace('"forced_tokens": 0', '"forced_tokens": "x"')
            ),
            "forced_tokens must be a whole number",
        ),
    ),
)
def test_damaged_runs_are_one_clear_line(damage, said, tmp_path, monkeypatch):
    synthetic(tmp_path)
    damage(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(UserError, match=said):
        report.main()


def test_damaged_extras_are_said_and_the_report_appears(tmp_path, monkeypatch, capsys):
    synthetic(tmp_path)
    (tmp_path / "calibration.json").write_text('{"nodes": [1]}')
    (tmp_path / "sam.scores.json").write_text("{}")
    (tmp_path / "lost.jsonl").write_text((tmp_path / "sam.jsonl").read_text())
    run(monkeypatch, report.main, tmp_path)
    out = capsys.readouterr().out
    assert (
        "is no cost curve" in out
        and "sam.scores.json is damaged" in out
        and "lost.jsonl: records without a manifest" in out
    )
    curve = {
        "nodes": [1, 8],
        "seconds": [1, 2],
        "contexts": {"512": [1, 2]},
        "model": "m",
        "device": "elsewhere",
    }
    (tmp_path / "calibration.json").write_text(json.dumps(curve))
    run(monkeypatch, report.main, tmp_path)
    assert "was measured elsewhere (device elsewhere / machine 0)" in capsys.readouterr().out
    (tmp_path / "calibration.json").write_text(json.dumps({**curve, "device": "machine 0"}))
    run(monkeypatch, report.main, tmp_path)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Cost of verifying n nodes" in page and "elsewhere" not in capsys.readouterr().out


def test_tables_file_in_every_format(tmp_path, monkeypatch):
    synthetic(tmp_path)
    for form, suffix, heading in (
        ("plain", "txt", "best_of_n, T = 0.6: Time"),
        ("markdown", "md", "## best_of_n, T = 0.6: Time"),
        ("latex", "tex", "\\section*{best\\_of\\_n, T = 0.6: Time}"),
    ):
        run(monkeypatch, report.main, tmp_path, "--format", form)
        text = (tmp_path / "report" / f"tables.{suffix}").read_text()
        assert heading in text and "Hesterberg" in text and "Recurrence of n-grams" in text


def test_redundancy_is_a_command(tmp_path, monkeypatch, capsys):
    synthetic(tmp_path)
    run(monkeypatch, redundancy_command.main, tmp_path, "--format", "markdown")
    assert "Longest earlier match" in capsys.readouterr().out


def test_without_any_vanilla_there_are_speeds_and_no_speed_ups(tmp_path, monkeypatch, capsys):
    synthetic(tmp_path, methods=("sam",))
    plot = tmp_path / "speed.png"
    monkeypatch.setattr(sys, "argv", ["speed", str(tmp_path), "--plot", str(plot)])
    assert speed.main() == 0
    said = capsys.readouterr().out
    assert "no vanilla run, so no speed-ups" in said and "is not drawn" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("sam"))
    assert float(row[2]) > 0 and row[3] == "-" and not plot.exists()


def test_five_hundred_long_generations_report_in_time_and_memory(tmp_path):
    """500 generations of 15,000 tokens in under 60 s and 4 GB; a quarter of that here."""
    synthetic(tmp_path, questions=21, tokens=15_000)
    # not a fork: a fork's peak begins with the memory of this process
    program = """
import resource, sys
from evaluation.report import __main__ as report
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
report.main()
status = open("/proc/self/status", encoding="utf-8").read()
print(status.split("VmHWM:")[1].split()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=CODE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1]) * 1024
    assert peak < 2 << 30


# --- the answer at the top ------------------------------------------------------------------------
def shown_method(name, ratio=None, low=None, high=None, outcome=None, same=(8, 8), **health):
    up = verdict = None
    if ratio:
        up = SimpleNamespace(ratio=ratio, low=low, high=high)
        verdict = SimpleNamespace(against_b=outcome, outcome=outcome)
    speed = SimpleNamespace(
        speed_up=up,
        verdict=None if name == "vanilla" else verdict,
        doubt=health.pop("doubt", ""),
        same=Sameness(*same),
        tokens_per_second=10.0,
        mat=2.0,
        questions=8,
        step=SimpleNamespace(is_in_turn=True),
    )
    counts = {"failed": 0, "cut": 0, "looping": 0, "generations": 8, "peak_memory": 0, **health}
    return SimpleNamespace(name=name, speed=speed, health=SimpleNamespace(**counts))


def shown_setting(*methods, pairs=(), has_vanilla=True):
    return SimpleNamespace(title="t", methods=methods, pairs=pairs, has_vanilla=has_vanilla)


def test_the_answer_is_made_from_the_verdicts():
    vanilla = shown_method("vanilla", 1.0, 1.0, 1.0)
    sam = shown_method("sam", 3.0, 2.6, 3.4, "faster")
    sps = shown_method("sps", 2.9, 2.4, 3.3, "faster")
    pld = shown_method("pld", 1.4, 1.2, 1.6, "faster", cut=3, doubt="a step would cost 0.4")
    tie = PairVerdict("sam", "sps", 1.03, 0.9, 1.2, 0.1, 8)
    won = PairVerdict("sam", "pld", 2.1, 1.9, 2.2, 0.1, 8)
    result = answer(shown_setting(vanilla, pld, sps, sam, pairs=(tie, won)), {})
    assert result.sentence == (
        "sam is fastest: 3.00x vanilla [2.60, 3.40]; not distinguishable from sps;"
        " all texts are vanilla's, token for token."
    )
    assert [row.method for row in result.rows] == ["sam", "sps", "pld", "vanilla"]
    marks = [badge.text for badge in result.rows[2].badges]
    assert marks == ["not believed", "3 cut"] and result.rows[2].verdict == "refused"


def test_the_answer_says_what_is_not_known():
    vanilla = shown_method("vanilla", 1.0, 1.0, 1.0)
    slow = shown_method("pld", 1.1, 0.9, 1.3, "not distinguishable", same=(6, 8))
    assert answer(shown_setting(vanilla, slow), {}).sentence == (
        "No method is shown to be faster than vanilla; the best, pld, is 1.10x vanilla"
        " [0.90, 1.30] (not distinguishable); texts that are not vanilla's: pld (2 of 8)."
    )
    assert "no vanilla run" in answer(shown_setting(slow, has_vanilla=False), {}).sentence
    assert "no method that shares" in answer(shown_setting(vanilla), {}).sentence
    scored = answer(shown_setting(vanilla), {"vanilla": Scores(0.5, 3.0)})
    assert (scored.rows[0].accuracy, scored.rows[0].cost) == (0.5, 3.0)
