"""`--parallel P`: samples of a question decoded together, as a user runs it."""

import json
import shutil

import pytest
import torch
from transformers import AutoConfig

from evaluation import inference, parallel, speed, verify
from evaluation.analysis import acceptance
from evaluation.analysis.results import SpeedResult
from evaluation.analysis.together import Point, conclusions
from evaluation.analysis.verdicts import PairVerdict
from evaluation.command import run_command
from evaluation.records.drafts import unpacked_drafts
from evaluation.records.reading import read_records
from evaluation.records.topk import Topk
from evaluation.report import __main__ as report
from evaluation.running import runner
from model import checkpoint, memory
from model.errors import UserError
from model.memory import check_fits, footprint
from model.paths import MINI

RUN = (
    "--model-path mini --paradigm best_of_n --samples 5 --temperature 0.6 --question-end 2"
    " --max-new-tokens 16 --warmup 0 --threads 1 --max-nodes 8 --engine eager"
).split()  # eager: recording graphs takes longer than these runs


def run(path, *flags, method="sam"):
    inference.main_for(method, [*RUN, "--answer-file", str(path), *flags])
    return read_records(path)


def texts(records):
    return {record.key: record.output_ids for record in records}


@pytest.mark.parametrize("method", ("vanilla", "sps", "blend_eagle3"))
def test_the_texts_do_not_depend_on_how_many_run_together(method, tmp_path):
    engine = ["--engine", "auto"]
    alone = run(tmp_path / "1.jsonl", *engine, method=method)
    assert {r.batch for r in alone} == {1}
    for value, batches in (("2", [2, 2, 2, 2, 1]), ("all", [5] * 5)):
        together = run(tmp_path / f"{value}.jsonl", *engine, "--parallel", value, method=method)
        assert texts(together) == texts(alone)
        assert [r.batch for r in together] == batches * 2


def test_the_rows_of_a_forward_are_limited(tmp_path):
    free = run(tmp_path / "free.jsonl", "--parallel", "all")
    tight = run(tmp_path / "tight.jsonl", "--parallel", "all", "--max-rows", "10")
    assert texts(tight) == texts(free)
    early = [r.draft_lengths[:2] for r in tight]  # all five are under way: two rows each
    assert max(max(lengths) for lengths in early) <= 1
    assert max(max(r.draft_lengths) for r in free) > 1


def test_likeliest_tokens_are_recorded_together_too(tmp_path):
    recorded = []
    for value in ("1", "all"):
        records = run(tmp_path / f"{value}.jsonl", "--parallel", value, "--record-topk", "4")
        recorded.append([Topk.unpacked(r.target_topk).ids[:, 0].tolist() for r in records])
    assert recorded[0] == recorded[1]


@pytest.mark.parametrize("method", ("pld", "recycling", "lookahead"))
def test_what_was_drafted_is_recorded_alone_and_together(method, tmp_path):
    """As many nodes as the record counts, and along the accepted tokens the text itself."""
    recorded = []
    for value in ("1", "all"):
        flags = ("--parallel", value, "--record-drafts", "--max-new-tokens", "40")
        records = run(tmp_path / f"{value}.jsonl", *flags, method=method)
        for record in records:
            drafts = unpacked_drafts(record.drafts)
            assert [len(draft.tokens) for draft in drafts] == record.draft_lengths
            for step, draft in zip(acceptance.steps(record), drafts, strict=True):
                emitted = record.output_ids[step.at : step.at + step.emitted]
                assert set(emitted[:-1]) <= set(draft.tokens)
                assert method != "pld" or list(draft.tokens[: step.emitted - 1]) == emitted[:-1]
                refused = draft.refused(emitted)
                assert all(branch[0] != emitted[-1] for branch in refused)
        recorded.append({record.key: record.drafts for record in records})
    if method == "pld":  # it remembers nothing of other samples
        assert recorded[0] == recorded[1]
    assert run(tmp_path / "none.jsonl")[0].drafts is None
    with pytest.raises(UserError, match="record_drafts"):
        run(tmp_path / "1.jsonl", method=method)


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
    said = capsys.readouterr().out
    of_two = said[said.index("best_of_n, T = 0.6, 2 together") :]
    assert "sam" in of_two and "vanilla" not in of_two.splitlines()[2]


def test_numbers_are_compared_with_vanillas_of_the_same(monkeypatch, tmp_path, capsys):
    folders = [tmp_path / "1", tmp_path / "2", tmp_path / "all", tmp_path / "8"]
    for folder in folders:
        for method in ("vanilla", "sam"):
            run(folder / f"{method}.jsonl", "--parallel", folder.name, method=method)
    assert parallel.main([str(folder) for folder in folders]) == 0
    said = capsys.readouterr().out
    assert "no cost of a right answer yet" in said
    rows = [line.split()[:2] for line in said.splitlines() if line.startswith(("vanilla", "sam "))]
    numbers = ["1", "2", "5"]
    assert rows == [[method, n] for method in ("vanilla", "sam") for n in numbers]
    assert f"{folders[3]}: best_of_n, T = 0.6 is left out" in said  # of five samples no eight run
    for name in ("speed-up", "tokens"):
        assert (folders[0] / f"parallel-{name}.png").stat().st_size > 10_000
    for folder in folders[:2]:
        for method in ("vanilla", "sam"):
            scores = {"summary": {"accuracy": 0.5, "seconds_per_correct": 3.25}}
            (folder / f"{method}.scores.json").write_text(json.dumps(scores))
    assert parallel.main([str(folder) for folder in folders[:2]]) == 0
    assert capsys.readouterr().out.count("3.25") == 4
    assert (folders[0] / "parallel-cost.png").stat().st_size > 10_000
    for shown in ([folders[0], folders[1]], [tmp_path]):  # or all below one folder
        out = tmp_path / "report"
        monkeypatch.setattr("sys.argv", ["report", *map(str, shown), "--out", str(out)])
        assert report.main() == 0
        page = (out / "report.html").read_text()
        assert "Speed-up against samples decoded together" in page
        assert "best_of_n, T = 0.6, 2 together" in page
        assert 'data-topic="together"' in page and '"parallel-cost"' in page
        shutil.rmtree(out)
    capsys.readouterr()
    (folders[1] / "vanilla.jsonl").unlink()
    assert parallel.main([str(folder) for folder in folders[:2]]) == 0
    assert "no vanilla run, so no speed-ups" in capsys.readouterr().out
    with pytest.raises(UserError, match="no folder has a vanilla run"):
        parallel.main([str(folders[1])])


def test_verify_compares_texts_made_together(monkeypatch, capsys):
    words = "--model-path mini --method sps pld --parallel 3 --questions 1 --max-new-tokens 8"
    monkeypatch.setattr("sys.argv", ["verify", *words.split(), "--temperature", "0", "0.6"])
    asked = []
    real = verify.generate_together
    monkeypatch.setattr(verify, "generate_together", lambda *a: asked.append(len(a[2])) or real(*a))
    assert verify.main() == 0
    assert "all texts are vanilla's" in capsys.readouterr().out
    assert asked == [1, 1, 3, 3]


@pytest.mark.parametrize("device", ("cuda:0", "cpu"))
def test_memory_is_refused_with_the_number_that_fits(device, monkeypatch, tmp_path):
    config = AutoConfig.from_pretrained(MINI / "target")
    need = footprint(config, torch.float32)
    free = need.total(1000, 3) + 2000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(memory, "MEMORY_OF_LINUX", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {free // 1024} kB\n")
    check_fits(config, torch.float32, device, 1000, 3)
    with pytest.raises(UserError, match=r"4000 cached tokens .* --parallel 3"):
        check_fits(config, torch.float32, device, 1000, 4)
    beside = 2 * 1000 * need.token
    with pytest.raises(UserError, match=r"GB of drafters; .* --parallel 1"):
        check_fits(config, torch.float32, device, 1000, 3, beside)


def test_a_run_counts_its_drafters_before_it_loads_anything(monkeypatch, tmp_path):
    """EAGLE-3's head and SpS's draft model with its cache."""
    asked = []

    def full(config, dtype, device, positions, sequences, beside):
        asked.append(beside)
        raise UserError("full")

    monkeypatch.setattr(checkpoint, "check_fits", full)
    for method in ("vanilla", "eagle3", "sps", "sam[eagle3]"):
        with pytest.raises(UserError, match="full"):
            run(tmp_path / f"{method}.jsonl", method=method)
    vanilla, eagle3, sps, composite = asked
    weights = sum(f.stat().st_size for f in (MINI / "eagle3").glob("*.safetensors"))
    draft_weights = sum(f.stat().st_size for f in (MINI / "draft").glob("*.safetensors"))
    assert vanilla == 0 and composite == eagle3 == weights and sps > draft_weights / 2


def test_where_drafting_stops_paying():
    def point(method, together, ratio, questions=8):
        verdict = PairVerdict(method, "vanilla", ratio, ratio - 0.05, ratio + 0.05, 0.1, questions)
        speed = SpeedResult(method, "t", (), questions, 1.0, None, 1.0, verdict=verdict)
        return Point("t", together, speed, 1.0)

    points = [point("sam", 1, 1.5), point("sam", 4, 1.02), point("sam", 8, 0.8)]
    points += [point("pld", 1, 2.0), point("pld", 4, 0.8, questions=2)]  # too few to say
    assert conclusions(points) == ["sam: drafting does not pay with 4 together"]


@pytest.mark.parametrize("value", ("0", "-1", "some"))
def test_a_number_that_makes_no_sense_is_refused(value, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: run(tmp_path / "r.jsonl", "--parallel", value))()
    assert stop.value.code == 2 and "--parallel" in capsys.readouterr().err
