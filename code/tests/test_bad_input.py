"""A user's mistake is one clear line and exit code 2, and nothing is written."""

import json
import subprocess
import sys

import pytest

from evaluation import inference, inference_samd, matrix, speed, verify
from evaluation.command import run_command
from evaluation.records.writer import RecordWriter
from model.paths import MINI
from tests.test_harness import CODE, manifest, record

RUN = ["--model-path", "mini", "--method", "pld"]


def stopped(main, capsys) -> str:
    """Run a guarded program; its one line on standard error."""
    with pytest.raises(SystemExit) as stop:
        run_command(main)()
    captured = capsys.readouterr()
    assert stop.value.code == 2
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("error: ") and "Traceback" not in captured.err
    return line


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--method", "pld"], "--model-path"),
        (["--model-path", "mini"], "which method"),
        (["--model-path", "mini", "--method", "pdl"], "did you mean 'pld'"),
        (["--model-path", "/nowhere", "--method", "pld"], "not a folder"),
        ([*RUN, "--temperature", "-1"], "--temperature must be at least 0"),
        ([*RUN, "--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
        ([*RUN, "--max-new-tokens", "99999"], "exceed the model's context"),
        ([*RUN, "--max-new-tokens", "many"], "invalid int value"),
        ([*RUN, "--thinking-budget", "2"], "--thinking-budget"),
        ([*RUN, "--paradigm", "best_of"], "did you mean 'best_of_n'"),
        ([*RUN, "--BON", "--samples", "0"], "--samples must be at least 1"),
        ([*RUN, "--bench-name", "nothing"], "no task 'nothing'"),
        ([*RUN, "--question-file", "/nowhere.jsonl"], "cannot read"),
        ([*RUN, "--question-begin", "500"], "leaves none"),
        ([*RUN, "--device", "gpu"], "--device is cpu, cuda or cuda:N"),
        ([*RUN, "--subset", "some"], "--subset is 'all' or 'published'"),
        ([*RUN, "--num-gpus-per-model", "1.5"], "must be a whole number"),
        (
            ["--model-path", "mini", "--method", "lookahead", "--level", "2"],
            "--lookahead-level of at least 3",
        ),
        (["--model-path", "mini", "--method", "sam", "--sam-nodes", "0"], "at least 1 node"),
        ([*RUN, "--colour", "red"], "unrecognized arguments: --colour"),
        ([*RUN, "--device", "cuda"], "finds no GPU"),
        ([*RUN, "--chat-template", "/nowhere"], "cannot read --chat-template"),
        (
            ["--model-path", "mini", "--method", "rest", "--datastore-path", "/nowhere"],
            "python -m training.datastore",
        ),
        (["--model-path", "mini", "--method", "sps", "--sps-mode", "x"], "coupled, rejection"),
    ],
)
def test_inference(flags, said, capsys, tmp_path):
    import torch

    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    target = tmp_path / "out" / "r.jsonl"
    assert said in stopped(
        lambda: inference.main_for(None, [*flags, "--answer-file", str(target)]), capsys
    )
    assert not target.exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--methods", "pdl"], "did you mean 'pld'"),
        (["--without", "pdl"], "did you mean 'pld'"),
        (["--for", "pdl", "--pld-ngram 3"], "did you mean 'pld'"),
        (["--temperatures", "warm"], "--temperatures are numbers"),
        (["--paradigms", "best_of"], "did you mean 'best_of_n'"),
        (["--paradigms", "best_of_n", "--temperatures", "0"], "no run is left"),
        (["--temperature", "0.6"], "--temperature is set for every run"),
        (["--for", "pld", "--method=sam"], "--method=sam is set for every run"),
    ],
)
def test_matrix(flags, said, monkeypatch, capsys, tmp_path):
    every = ["--model-path", "mini", "--model-name", "mini", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["matrix", *every, *flags])
    assert said in stopped(matrix.main, capsys)
    assert not (tmp_path / "out").exists()


def test_model_folders(tmp_path, capsys):
    def line(folder):
        return stopped(
            lambda: inference.main_for(None, ["--method", "pld", "--model-path", str(folder)]),
            capsys,
        )

    assert "config.json" in line(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    assert "cannot load a tokenizer" in line(tmp_path) or "not a usable" in line(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "cannot load a model" in line(tmp_path)
    for file in (MINI / "target").iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[:5000] if file.suffix == ".safetensors" else data)
    assert "damaged" in line(tmp_path)


def test_output_folder_not_writable(capsys):
    assert "cannot write" in stopped(
        lambda: inference.main_for(
            None, [*RUN, "--question-end", "1", "--answer-file", "/proc/x/r.jsonl"]
        ),
        capsys,
    )


def test_no_name_is_no_records_file(capsys):
    said = stopped(lambda: inference.main_for(None, [*RUN, "--answer-file", ""]), capsys)
    assert "--answer-file must end in .jsonl" in said


def test_malformed_question_line(tmp_path, capsys):
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"question_id": 1, "turns": ["a"]}\n{"question_id": 2, "turns": ["b"]\n'
        '{"question_id": 3, "turns": ["c"]}\n'
    )
    assert "line 2" in stopped(
        lambda: inference.main_for(None, [*RUN, "--question-file", str(file)]), capsys
    )


def speed_line(monkeypatch, capsys, *flags) -> str:
    monkeypatch.setattr(sys, "argv", ["speed.py", *map(str, flags)])
    return stopped(speed.main, capsys)


def written(path, records):
    with RecordWriter(path, manifest(), 1) as writer:
        writer.append(records)
    return path


def test_speed(monkeypatch, capsys, tmp_path):
    one = written(tmp_path / "a.jsonl", [record("1")])
    two = written(tmp_path / "b.jsonl", [record("2", method="vanilla")])
    other = written(tmp_path / "c.jsonl", [record("1", method="vanilla", prompt_hash="other")])
    assert "no question in common" in speed_line(
        monkeypatch, capsys, "--file-path", one, "--base-path", two
    )
    assert "different prompts" in speed_line(
        monkeypatch, capsys, "--file-path", one, "--base-path", other
    )
    (tmp_path / "empty").mkdir()
    assert "no records" in speed_line(monkeypatch, capsys, tmp_path / "empty")
    assert "not a folder" in speed_line(monkeypatch, capsys, tmp_path / "none")
    assert "give a folder" in speed_line(monkeypatch, capsys)
    one.write_text(one.read_text().replace('"schema": 7', '"schema": 8'))
    assert "schema 8 is unknown" in speed_line(monkeypatch, capsys, tmp_path)


def test_other_programs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["verify", "--model-path", "mini", "--method", "pdl"])
    assert "did you mean 'pld'" in stopped(verify.main, capsys)
    monkeypatch.setattr(sys, "argv", ["samd", "--tree_method", "eagle9", "--model-path", "mini"])
    assert "--tree_method is one of" in stopped(inference_samd.main, capsys)


@pytest.mark.slow
def test_a_sample_of_damaged_inputs_is_refused_in_one_line():
    """`bench/bad_input.py` runs thousands of cases; these are a few of them."""
    command = [sys.executable, "bench/bad_input.py", "--cases", "15", "--seed", "3", "--jobs", "1"]
    done = subprocess.run(command, cwd=CODE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "15 cases" in done.stdout and " 0 failed" in done.stdout
