"""`--parallel P`: samples of a question decoded together, as a user runs it."""

import shutil

import pytest

from evaluation import inference, parallel, speed
from evaluation.analysis.metrics import SpeedUp
from evaluation.command import run_command
from evaluation.records.reading import read_records
from evaluation.running import runner
from model.errors import UserError

RUN = (
    "--model-path mini --paradigm best_of_n --samples 5 --temperature 0.6 --question-end 2"
    " --max-new-tokens 24 --warmup 0 --threads 1 --max-nodes 8"
).split()


def run(path, *flags, method="sam"):
    inference.main_for(method, [*RUN, "--answer-file", str(path), *flags])
    return read_records(path)


def texts(records):
    return {record.key: record.output_ids for record in records}


@pytest.mark.parametrize("method", ("vanilla", "sps", "blend_eagle3"))
def test_the_texts_do_not_depend_on_how_many_run_together(method, tmp_path):
    alone = run(tmp_path / "1.jsonl", method=method)
    assert {r.batch for r in alone} == {1}
    for value, batches in (("2", [2, 2, 2, 2, 1]), ("all", [5] * 5)):
        together = run(tmp_path / f"{value}.jsonl", "--parallel", value, method=method)
        assert texts(together) == texts(alone)
        assert [r.batch for r in together] == batches * 2


def test_a_groups_time_is_recorded_once(tmp_path):
    records = run(tmp_path / "r.jsonl", "--parallel", "all")
    group = [r for r in records if r.question_id == records[0].question_id]
    assert len({r.wall_time for r in group}) == 1
    longest = max(r.latency for r in group)
    assert longest <= sum(r.wall_time for r in group)
    assert longest > group[0].wall_time  # one alone took longer than its share


def test_rounds_of_one_generation_are_as_before(tmp_path):
    flags = ["--paradigm", "multi_round", "--parallel", "4"]
    together = run(tmp_path / "4.jsonl", *flags)
    alone = run(tmp_path / "1.jsonl", "--paradigm", "multi_round")
    assert texts(together) == texts(alone) and {r.batch for r in together} == {1}


def test_what_does_not_fit_together_is_made_alone(monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise MemoryError("out of memory")

    expected = texts(run(tmp_path / "a.jsonl"))
    monkeypatch.setattr(runner, "generate_together", full)
    records = run(tmp_path / "b.jsonl", "--parallel", "all")
    assert texts(records) == expected
    assert {r.batch for r in records} == {1} and not any(r.failed for r in records)


def test_a_sample_that_is_too_long_fails_alone(monkeypatch, tmp_path):
    expected = texts(run(tmp_path / "a.jsonl"))
    real = runner.check

    def narrow(model, request):
        if request.sample == 2:
            raise UserError("exceed the model's context")
        real(model, request)

    monkeypatch.setattr(runner, "check", narrow)
    records = run(tmp_path / "b.jsonl", "--parallel", "all")
    failed = [r for r in records if r.failed]
    assert {r.sample for r in failed} == {2} and all(r.new_tokens is None for r in failed)
    assert [r.sample for r in records] == [0, 1, 2, 3, 4] * 2
    others = {key: ids for key, ids in expected.items() if key[2] != 2}
    assert {r.key: r.output_ids for r in records if not r.failed} == others


def test_a_run_resumes_with_the_same_number_only(tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    whole = run(path, "--parallel", "2")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]))
    assert texts(run(path, "--parallel", "2")) == texts(whole)
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: run(path, "--parallel", "3"))()
    assert stop.value.code and "parallel" in capsys.readouterr().err


def test_speed_ups_compare_equal_numbers(monkeypatch, tmp_path, capsys):
    run(tmp_path / "vanilla.jsonl", method="vanilla")
    run(tmp_path / "sam.jsonl", "--parallel", "2")
    monkeypatch.setattr("sys.argv", ["speed", str(tmp_path)])
    speed.main()
    said = capsys.readouterr()
    assert "parallel" in said.out + said.err


def test_numbers_are_compared_with_vanillas_of_the_same(tmp_path, capsys):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, value in zip(folders, ("1", "2"), strict=True):
        for method in ("vanilla", "sam"):
            run(folder / f"{method}.jsonl", "--parallel", value, method=method)
    assert parallel.main([str(folder) for folder in folders]) == 0
    said = capsys.readouterr().out
    rows = [line.split()[:2] for line in said.splitlines() if line.startswith(("vanilla", "sam "))]
    assert rows == [["vanilla", "1"], ["vanilla", "2"], ["sam", "1"], ["sam", "2"]]
    for name in ("speed-up", "tokens"):
        assert (folders[0] / f"parallel-{name}.png").stat().st_size > 10_000
    (folders[1] / "vanilla.jsonl").unlink()
    assert parallel.main([str(folder) for folder in folders]) == 0
    assert "no vanilla with 2 together" in capsys.readouterr().out
    with pytest.raises(UserError, match="both sam with 1 together"):
        copy = tmp_path / "copy"
        shutil.copytree(folders[0], copy)
        parallel.main([str(folders[0]), str(copy)])
    (copy / "vanilla.jsonl").unlink()
    with pytest.raises(UserError, match="run --method vanilla too"):
        parallel.main([str(copy)])


def test_where_drafting_stops_paying():
    def place(method, number, ratio):
        up = SpeedUp(ratio, ratio, ratio, ratio, 2)
        return parallel.Place(("p", 0.0, "m"), method, number, up, 1.0, 1.0, 1.0)

    places = [place("sam", 1, 1.5), place("sam", 4, 0.9), place("sam", 8, 0.8), place("pld", 1, 2)]
    assert parallel.verdicts(places) == ["sam: drafting does not pay with 4 together"]


@pytest.mark.parametrize("value", ("0", "-1", "some"))
def test_a_number_that_makes_no_sense_is_refused(value, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: run(tmp_path / "r.jsonl", "--parallel", value))()
    assert stop.value.code == 2 and "--parallel" in capsys.readouterr().err
