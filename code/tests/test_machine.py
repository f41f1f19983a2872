"""Busy machines: the control, what is corrected, what is not believed; methods in turn."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from evaluation import inference, speed
from evaluation.analysis import doubts, metrics
from evaluation.analysis.drift import drift
from evaluation.records.reading import read_records
from evaluation.records.totals import Total, by_question
from evaluation.running import meter, tuning
from evaluation.running.control import Control
from evaluation.running.several import parse_several
from evaluation.running.turns import rotated
from model.contract import NO_CAP
from model.engine import measure
from model.engine.model import Model
from model.errors import UserError
from tests.conftest import qwen3
from tests.test_bad_input import stopped
from tests.test_harness import record

STEP = 0.004
"""Seconds of the control on a quiet machine."""


def question(ratio: float, slowdown: float, tokens: int = 200, waited: float = 0.0) -> Total:
    """A question that a method answers `ratio` times faster than vanilla, on a slowed machine."""
    ran = tokens * STEP / ratio * slowdown
    return Total(tokens, ran + waited, waited, ran / (STEP * slowdown))


def run(ratio: float, slowdowns, waits=None) -> dict[str, Total]:
    waits = [0.0] * len(slowdowns) if waits is None else waits
    return {str(i): question(ratio, s, waited=w) for i, (s, w) in enumerate(zip(slowdowns, waits))}


# --- drift and its correction ---------------------------------------------------------------------
def test_on_a_quiet_machine_nothing_is_corrected():
    up = metrics.speed_up(run(2, [1.0] * 8), run(1, [1.0] * 8))
    assert up.timed is None and up.ratio == pytest.approx(2) and up.load == pytest.approx(1)


def test_a_machine_that_slows_down_for_one_method_is_corrected_for():
    """Vanilla ran on a quiet machine, the method on one 1.6 times slower: 2x looks like 1.25x."""
    up = metrics.speed_up(run(2, [1.6] * 8), run(1, [1.0] * 8))
    assert up.timed == pytest.approx(1.25) and up.ratio == pytest.approx(2)
    assert up.load == pytest.approx(1.6)


def test_a_load_that_comes_and_goes_is_corrected_for():
    rng = np.random.default_rng(0)
    ours, theirs = rng.choice([1.0, 1.8], 24), rng.choice([1.0, 1.8], 24)
    up = metrics.speed_up(run(2, ours), run(1, theirs))
    assert up.timed is not None and up.ratio == pytest.approx(2)


def test_what_was_waited_for_a_core_is_taken_off():
    seen = drift(run(2, [1.0] * 4, [0.2, 0, 0.3, 0]), run(1, [1.0] * 4))
    assert seen.unit == "ran"
    up = metrics.speed_up(run(2, [1.0] * 4, [0.2, 0, 0.3, 0]), run(1, [1.0] * 4))
    assert up.ratio == pytest.approx(2) and up.timed < 2


def test_a_control_that_only_adds_noise_is_not_used():
    """Times are steady, the control is not: it would spoil a good measurement."""
    rng = np.random.default_rng(1)
    method, base = run(2, [1.0] * 12), run(1, [1.0] * 12)
    for totals in (method, base):
        for name, total in totals.items():
            noisy = total.control_steps * rng.lognormal(0, 0.1)
            totals[name] = dataclasses.replace(total, control_steps=noisy)
    up = metrics.speed_up(method, base)
    assert up.timed is None and up.ratio == pytest.approx(2)


def test_records_without_a_control_are_compared_as_timed():
    old = {str(i): Total(100, 1.0) for i in range(6)}
    up = metrics.speed_up(old, old)
    assert up.timed is None and up.load is None and up.ratio == 1


def test_noise_is_what_equal_methods_differ_by():
    """Of pairs of equal methods with this spread, 95 % differ by less than the noise says."""
    rng, n, spread = np.random.default_rng(2), 16, 0.1
    within = 0
    for _ in range(400):
        first, second = (
            {str(i): Total(100, rng.lognormal(0, spread)) for i in range(n)} for _ in "ab"
        )
        up = metrics.speed_up(first, second)
        within += max(up.ratio, 1 / up.ratio) <= 1 + up.noise
    assert 0.90 < within / 400 < 0.98


def test_totals_of_records():
    first = record("1", wall_time=2.0, waited_time=0.5, control_time=0.01)
    total = by_question([first])["1"]
    assert total.ran == 1.5 and total.control_steps == pytest.approx(150)
    assert by_question([record("1")])["1"].control_steps is None


# --- what is not believed -------------------------------------------------------------------------
def doubt(ratio: float, mat: float, slowdown: float = 1.0, **changes) -> str:
    up = metrics.speed_up(run(ratio, [slowdown] * 8), run(1, [1.0] * 8))
    return doubts.doubt(up, mat, [record("1", **changes)])


def test_a_step_cannot_cost_less_than_vanillas():
    assert "cannot cost less" in doubt(7.71, mat=1.73)
    assert not doubt(1.6, mat=1.73)
    assert not doubt(1.03, mat=1.0)  # within the noise


def test_loads_that_differ_by_more_than_the_methods_do():
    said = doubt(1.1, mat=1.5, slowdown=1.3)
    assert "1.30 times slower than for vanilla" in said
    assert not doubt(2.0, mat=2.5, slowdown=1.3)


def test_shared_runs():
    assert "another run used the same GPU" in doubt(2.0, mat=2.5, shared=True)


# --- measuring ------------------------------------------------------------------------------------
def test_the_control_stays_below_a_hundredth_of_the_time(target):
    target.reserve(128)
    control = Control(target)
    control.step_time()
    earned = 0.0
    for _ in range(200):
        control.earn(0.05)
        earned += 0.05
        assert control.step_time() > 0
    assert 0 < control.spent < 0.01 * earned + 0.05


def test_waits_and_load_are_read_where_linux_tells(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(meter, "THREAD_SCHEDULE", tmp_path / "schedstat")
    monkeypatch.setattr(meter, "SYSTEM_TIMES", tmp_path / "stat")
    assert meter.waited_seconds() is None and meter.busy_seconds() is None
    (tmp_path / "schedstat").write_text("5000000000 250000000 7\n")
    # user nice system idle iowait irq softirq steal guest guest_nice, in ticks
    (tmp_path / "stat").write_text("cpu 100 0 50 900 20 0 10 40 7 7\ncpu0 ...\n")
    assert meter.waited_seconds() == 0.25
    assert meter.busy_seconds() == pytest.approx(200 / 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert meter.waited_seconds() is None  # several threads wait for each other too


def test_drafts_are_capped_where_nodes_cost_too_much(monkeypatch):
    costs = {1: 1.0, 2: 1.1, 3: 1.2, 4: 1.25, 6: 1.4, 8: 1.49, 12: 1.9, 16: 2.6, 24: 4.0}
    asked = []

    def seconds(model, nodes, context, repeats, together):
        asked.append(nodes)
        return costs[nodes]

    monkeypatch.setattr(tuning, "verify_seconds", seconds)
    spec = dataclasses.replace(parse_several(["--methods", "pld", "--model-path", "mini"])[0])
    model = Model(qwen3())
    before = torch.get_num_threads()
    tuned = tuning.tune(model, [with_threads(spec)])
    assert tuned.max_nodes == 8 and max(asked) == 16 and tuned.costs[12] == pytest.approx(1.9)
    monkeypatch.setattr(tuning, "verify_seconds", lambda *_: 1.0)
    assert tuning.tune(model, [with_threads(spec)]).max_nodes == NO_CAP
    torch.set_num_threads(before)


def with_threads(spec):
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, threads=1))


def test_several_texts_share_a_budget_of_rows(monkeypatch):
    """Rows cost the same whosoever they are: of four texts each gets a smaller draft."""

    def seconds(model, nodes, context, repeats, together):
        return 1 + 0.02 * nodes * together

    monkeypatch.setattr(tuning, "verify_seconds", seconds)
    spec = with_threads(parse_several(["--methods", "pld", "--model-path", "mini"])[0])
    before, model = torch.get_num_threads(), Model(qwen3())
    alone, together = (tuning.tune(model, [spec], number) for number in (1, 4))
    torch.set_num_threads(before)
    assert together.max_nodes < alone.max_nodes
    assert together.costs[4] == pytest.approx((1 + 0.32) / (1 + 0.08))


def test_a_measured_step_is_one_of_so_many_texts(target):
    target.reserve(100, 3)
    rows = []
    real = target.forward
    target.forward = lambda segments, *rest: rows.append(len(segments)) or real(segments, *rest)
    try:
        assert measure.verify_seconds(target, 2, 20, 1, together=3) > 0
    finally:
        del target.forward
    assert set(rows) == {3}


def test_threads_are_added_while_they_bring_something(monkeypatch):
    times = {1: 1.0, 2: 0.6, 4: 0.58, 8: 0.3}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(tuning.os, "cpu_count", lambda: 8)
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(tuning, "verify_seconds", lambda *_: times[chosen[-1]])
    assert tuning.fastest_threads(Model(qwen3())) == 2 and chosen == [1, 2, 4]


# --- methods in turn ------------------------------------------------------------------------------
TINY = ["--model-path", "mini", "--question-end", "3", "--max-new-tokens", "24", "--threads", "1"]
TINY = [*TINY, "--max-nodes", "4", "--paradigm", "best_of_n", "--temperature", "0.6"]


def test_in_turn_the_texts_are_those_of_runs_alone(tmp_path, capsys):
    named = ["--model-id", "{method}", "--answer-file", str(tmp_path / "turn" / "{method}.jsonl")]
    methods = ["vanilla", "pld", "sam"]
    assert inference.main_for(None, ["--methods", *methods, *TINY, *named]) == 0
    records = {}
    for method in methods:
        own = ["--model-id", method, "--answer-file", str(tmp_path / "alone" / f"{method}.jsonl")]
        assert inference.main_for(None, ["--method", method, *TINY, *own]) == 0
        records[method] = read_records(tmp_path / "turn" / f"{method}.jsonl")
        alone = read_records(tmp_path / "alone" / f"{method}.jsonl")
        for ours, theirs in zip(records[method], alone, strict=True):
            assert ours.key == theirs.key and ours.output_ids == theirs.output_ids
            assert ours.accept_lengths == theirs.accept_lengths
            assert sorted(ours.in_turn) == sorted(methods) and theirs.in_turn == []
            assert ours.control_time > 0 and ours.cpu_time > 0
    # who begins changes: each of the three is first once
    first = [min((r.tstamp, r.method) for m in methods for r in records[m] if r.question_id == q)
             for q in dict.fromkeys(r.question_id for r in records["pld"])]  # fmt: skip
    assert {method for _, method in first} == set(methods)
    # one file lost, the others whole: only what is missing is run, and is marked as alone
    (tmp_path / "turn" / "sam.jsonl").unlink()
    assert inference.main_for(None, ["--methods", *methods, *TINY, *named]) == 0
    assert "3 of 3 questions are done already" in capsys.readouterr().out
    again = read_records(tmp_path / "turn" / "sam.jsonl")
    assert [r.output_ids for r in again] == [r.output_ids for r in records["sam"]]
    assert all(r.in_turn == [] for r in again)


def test_who_begins_changes():
    assert [rotated("abc", n)[0] for n in range(4)] == ["a", "b", "c", "a"]
    assert rotated([], 5) == []


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--methods", "pld", "pld"], "names pld twice"),
        (["--methods", "pdl"], "did you mean 'pld'"),
        (["--methods", "pld", "sam", "--model-id", "x"], "must hold {method}"),
        (["--methods", "pld", "sam", "--for", "pld", "--sam-nodes 3"], "is no flag of pld"),
        (["--methods", "pld", "sam", "--for", "pld", "--seed 3"], "share the generation"),
        (["--methods", "pld", "sam", "--for", "pld", "'"], "No closing quotation"),
    ],
)
def test_several_methods_bad_input(flags, said, capsys):
    arguments = ["--model-path", "mini", *flags]
    assert said in stopped(lambda: inference.main_for(None, arguments), capsys)


def test_flags_of_one_method_alone():
    flags = ["--methods", "pld", "sam", "--model-path", "mini", "--for", "sam", "--max-nodes 5"]
    pld, sam = parse_several([*flags, "--model-id", "m-{method}"])
    assert (pld.method.max_nodes, sam.method.max_nodes) == (None, 5)
    assert (pld.model_id, sam.model_id) == ("m-pld", "m-sam")


def test_a_cap_of_one_methods_own_is_kept(tmp_path):
    named = ["--model-id", "{method}", "--answer-file", str(tmp_path / "{method}.jsonl")]
    flags = ["--model-path", "mini", "--question-end", "1", "--max-new-tokens", "40"]
    own = ["--for", "rest", "--max-nodes 3", "--threads", "1", "--warmup", "0"]
    for cap in (["--max-nodes", "6"], []):  # the second run goes on, and finds it all done
        assert (
            inference.main_for(None, ["--methods", "rest", "sam", *flags, *own, *cap, *named]) == 0
        )
    drafted = {}
    for method in ("sam", "rest"):
        records = read_records(tmp_path / f"{method}.jsonl")
        drafted[method] = max(n for record in records for n in record.draft_lengths)
    assert drafted["rest"] == 2 and 2 < drafted["sam"] <= 5


# --- the table ------------------------------------------------------------------------------------
def test_an_impossible_row_gets_no_verdict(tmp_path, monkeypatch, capsys):
    from tests.test_report import synthetic

    synthetic(tmp_path)
    file = tmp_path / "sam.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:  # MAT 3, and ten times faster than that allows
        for name in ("wall_time", "verify_time", "draft_time", "accept_time", "other_time"):
            line[name] /= 10
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(sys, "argv", ["speed", str(tmp_path), "--json", str(tmp_path / "s.json")])
    assert speed.main() == 0
    said = capsys.readouterr().out
    assert "sam: no verdict: a step would cost 0.1" in said
    rows = {row["method"]: row for row in json.loads((tmp_path / "s.json").read_text())}
    assert rows["sam"]["doubt"] and rows["sam"]["verdict"] == "refused"
    assert rows["pld"]["verdict"] == "faster" and not rows["pld"]["doubt"]


def test_unlike_files_are_refused_unless_forced(tmp_path, monkeypatch, capsys):
    from tests.test_report import synthetic

    synthetic(tmp_path / "a")
    synthetic(tmp_path / "b", max_new_tokens=9)
    file, base = tmp_path / "b" / "sam.jsonl", tmp_path / "a" / "vanilla.jsonl"
    flags = ["--file-path", file, "--base-path", base]
    monkeypatch.setattr(sys, "argv", ["speed", *map(str, flags)])
    with pytest.raises(UserError, match=r"max_new_tokens 9 / None.*--force"):
        speed.main()
    monkeypatch.setattr(sys, "argv", ["speed", *map(str, flags), "--force"])
    assert speed.main() == 0 and "compared because of --force" in capsys.readouterr().out


def test_of_one_question_the_control_says_nothing():
    """Its few samples may differ by chance: no correction, and no doubt because of them."""
    up = metrics.speed_up(run(2, [1.6]), run(1, [1.0]))
    assert up.timed is None and not doubts.doubt(up, 2.5, [record("1")])
