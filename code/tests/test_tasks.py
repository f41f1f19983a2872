"""Datasets from the hub (its library replaced by rows), grading, scores, the published scripts at
small scale.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import score, tasks
from evaluation.analysis.scoring import Graded, pass_at_k, vote
from evaluation.records.manifest import Manifest
from evaluation.records.reading import read_records
from evaluation.records.runs import RunFile, read_run
from evaluation.score import Grader, final_answer
from evaluation.tasks import gpqa, jsonl, questions_hash
from evaluation.tasks.grading import math_equal
from model.errors import UserError
from tests.test_harness import CODE, SHARED, record

QUESTIONS = SHARED / "questions" / "spectts_question_cot.jsonl"
ROWS = {
    "HuggingFaceH4/aime_2024": [
        {"id": 60 + i, "problem": f"P{i}", "answer": str(i)} for i in range(30)
    ],
    "math-ai/aime25": [{"id": str(i), "problem": f"P{i}", "answer": i} for i in range(30)],
    "HuggingFaceH4/MATH-500": [
        {
            "problem": f"P{i}",
            "answer": "\\frac{1}{2}",
            "subject": "Algebra",
            "level": 2,
            "unique_id": f"u{i}",
        }
        for i in range(500)
    ],
    "Idavidrein/gpqa": [
        {
            "Record ID": f"rec{i}",
            "Question": f"Q{i}",
            "Correct Answer": "right",
            "Incorrect Answer 1": "w1",
            "Incorrect Answer 2": "w2",
            "Incorrect Answer 3": "w3",
            "High-level domain": "Physics",
        }
        for i in range(198)
    ],
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The datasets library, answering from ROWS; asserts that a revision is pinned."""
    library = type(sys)("datasets")

    def load_dataset(repository, config=None, split=None, revision=None):
        assert len(revision) == 40 and split
        return ROWS[repository]

    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr("evaluation.tasks.hub.DATA", tmp_path)
    return library


@pytest.mark.parametrize(
    "task, size, answer",
    [
        ("aime24", 30, "0"),
        ("aime25", 30, "0"),
        ("math500", 500, "\\frac{1}{2}"),
        ("gpqa", 198, None),
    ],
)
def test_hub_tasks(hub, task, size, answer):
    module, questions = tasks.load(task)
    assert len(questions) == size and {q.category for q in questions} == {task}
    assert answer is None or questions[0].answer == answer
    assert len(tasks.load(task, subset="published")[1]) == 30
    assert module.check(f"\\boxed{{{questions[0].answer}}}", questions[0])
    with pytest.raises(UserError, match="--subset is"):
        tasks.load(task, subset="some")


def test_gpqa_options_are_shuffled_by_the_questions_own_id(hub):
    first, again = (tasks.load("gpqa")[1] for _ in range(2))
    assert first == again
    letters = Counter(q.answer for q in first)
    assert set(letters) == set("ABCD") and max(letters.values()) < 80
    for q in first[:5]:
        assert f"{q.answer}. right" in q.text and q.text.count("\n") >= 5


@pytest.mark.parametrize(
    "text, letter",
    [
        ("\\boxed{C}", "C"),
        ("\\boxed{\\text{B}}", "B"),
        ("\\boxed{(D)}", "D"),
        ("\\boxed{A. 10 eV}", "A"),
        ("The answer is **B**.", "B"),
        ("Answer: C", "C"),
        ("\\boxed{10}", None),
        ("no idea", None),
        ("The answer is A. No, the answer is D.", "D"),
        ("The final answer is a mixture, as in option (C)", None),
    ],
)
def test_option_letters(text, letter):
    assert gpqa.letter_of(text) == letter


def test_hub_errors_say_what_to_do(hub, tmp_path):
    def failing(message):
        def load_dataset(*_, **__):
            raise OSError(message)

        return load_dataset

    hub.load_dataset = failing("Cannot send a request")
    with pytest.raises(
        UserError, match=r"cannot fetch HuggingFaceH4/aime_2024.*put the questions into .*aime24"
    ):
        tasks.load("aime24")
    hub.load_dataset = failing("401 Client Error: gated repo")
    with pytest.raises(UserError, match="hf auth login"):
        tasks.load("gpqa")
    (tmp_path / "gpqa").mkdir()
    (tmp_path / "gpqa" / "questions.jsonl").write_text(
        '{"question_id": 1, "turns": ["Q"], "answer": "A"}\n'
    )
    assert tasks.load("gpqa")[1][0].answer == "A"


def test_without_the_datasets_library(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("evaluation.tasks.hub.DATA", tmp_path)
    with pytest.raises(UserError, match="pip install -e 'code\\[hub\\]'"):
        tasks.load("math500")


# --- grading --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text, reference, right",
    [
        ("\\boxed{\\frac12}", "0.5", True),
        ("\\boxed{(3, \\frac{\\pi}{2})}", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
        ("\\boxed{073}", "73", True),
        ("\\boxed{12,345}", "12345", True),
        ("\\boxed{5}", "7", False),
        ("7", "7", False),
        ("\\boxed{}", "7", False),
        ("\\boxed{1} so \\boxed{7}", "7", True),
        ("\\boxed{7}", None, None),
    ],
)
def test_math_answers(text, reference, right):
    assert math_equal(text, reference) is right


@pytest.mark.slow
def test_a_comparison_that_hangs_is_cut_in_any_thread():
    found = []
    worker = threading.Thread(
        target=lambda: found.append(math_equal("\\boxed{9^{9^{9^{9^9}}}}", "3", seconds=1.0))
    )
    worker.start()
    worker.join(60)
    assert found == [False]
    # the new process imports sympy before it is timed
    assert math_equal("\\boxed{\\frac{2}{4}}", "0.5", seconds=0.4) is True


@pytest.mark.slow
def test_grading_goes_on_when_its_process_dies():
    assert math_equal("\\boxed{\\frac{2}{4}}", "0.5") is True
    for child in psutil.Process().children():
        if "multiprocessing.spawn" in " ".join(child.cmdline()):
            child.kill()
    time.sleep(1)
    assert math_equal("\\boxed{\\frac{2}{4}}", "0.5") is True


def old(question="1", **changes):
    """A record of the schema that holds no final answer."""
    return record(question, schema=1, **changes)


def test_the_final_answer_of_old_records_follows_the_marker():
    manifest = Manifest({"end_think_id": 7, "end_think": "</think>"})
    done = old(output_ids=[1, 7, 2], text="a</think>b</think>c")
    cut = old(output_ids=[1, 2], text="\\boxed{1} so far")
    assert final_answer(done, manifest) == "c"
    assert final_answer(cut, manifest) == ""  # the template may have opened the thinking
    assert final_answer(cut, Manifest({"end_think_id": None})) == cut.text
    assert final_answer(cut, Manifest({})) == cut.text
    reason = Manifest({"end_think_id": 7, "end_think": "</reason>"})
    assert final_answer(old(output_ids=[7], text="x</reason>y"), reason) == "y"
    assert final_answer(record(final_answer="42", text="no marker"), manifest) == "42"
    assert final_answer(record(final_answer=None, text="\\boxed{1}"), manifest) == ""


def run_of(folder: Path, records: list, questions: int = 1, **settings) -> RunFile:
    """Records read back, with a manifest that names the mini task."""
    path = folder / "r.jsonl"
    path.write_text("".join(r.line() for r in records))
    data = {"settings": {"bench": "mini", "seed": 0, **settings}, "questions": questions}
    path.with_suffix(".manifest.json").write_text(json.dumps(data))
    return read_run(path, [])


def test_a_text_without_a_box_does_not_take_a_boxed_ones_grade(tmp_path):
    records = [
        record("1", 0, final_answer="42", reference_answer="42"),
        record("1", 1, final_answer="\\boxed{42}", reference_answer="42"),
    ]
    graded = Grader(run_of(tmp_path, records)).grade()
    assert [item.right for item in graded] == [False, True]


def test_old_records_are_graded_by_the_questions_they_were_made_from_or_not_at_all(tmp_path):
    """Version 0.1 graded by whatever the question file held by then."""
    asked = tasks.load("mini")[1][2:4]
    records = [old(asked[0].id, text=f"\\boxed{{{asked[0].answer}}}")]
    run = run_of(tmp_path, records, 2, questions_hash=questions_hash(asked))
    assert [item.right for item in Grader(run).grade()] == [True]
    run = run_of(tmp_path, records, 2, questions_hash="of others")
    with pytest.raises(UserError, match="was made from other questions than the task 'mini'"):
        Grader(run)


@given(
    st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(case):
    from itertools import combinations

    total, right, k = case
    subsets = list(combinations(range(total), k))
    assert pass_at_k(right, total, k) == pytest.approx(
        sum(any(i < right for i in s) for s in subsets) / len(subsets)
    )


def test_majority_vote():
    def graded(*answers):
        return [
            Graded(record(sample=i), f"\\boxed{{{a}}}", a == "7") for i, a in enumerate(answers)
        ]

    assert vote(graded("7", "3", "7")) is True and vote(graded("3", "3", "7")) is False
    assert vote([Graded(record(), "", False)]) is False


def test_unscorable_questions_are_counted_and_scoring_changes_no_record(
    monkeypatch, capsys, tmp_path
):
    from evaluation import inference

    questions = tmp_path / "q.jsonl"
    questions.write_text(
        '{"question_id": 1, "turns": ["1 + 1?"], "answer": "2"}\n'
        '{"question_id": 2, "turns": ["Why?"]}\n'
    )
    for method in ("vanilla", "pld"):
        inference.main_for(
            method,
            [
                "--model-path",
                "mini",
                "--question-file",
                str(questions),
                "--max-new-tokens",
                "20",
                "--warmup",
                "0",
                "--answer-file",
                str(tmp_path / "o" / f"{method}.jsonl"),
            ],
        )
    before = (tmp_path / "o" / "pld.jsonl").read_bytes()
    monkeypatch.setattr(sys, "argv", ["score", str(tmp_path / "o")])
    assert score.main() == 0
    assert (tmp_path / "o" / "pld.jsonl").read_bytes() == before
    summary = json.loads((tmp_path / "o" / "pld.scores.json").read_text())["summary"]
    assert summary["unscorable"] == 2 and summary["n"] == 4
    assert summary["same_as_vanilla"] == {"equal": 4, "compared": 4}
    assert "exact" in capsys.readouterr().out


# --- the published experiments --------------------------------------------------------------------
@pytest.mark.skipif(not QUESTIONS.exists(), reason="the published questions are not here")
def test_the_published_questions():
    found = jsonl.questions(QUESTIONS)
    assert Counter(q.category for q in found) == {
        "aime24": 30,
        "aime25": 30,
        "math500": 30,
        "gpqa": 30,
    }
    assert all(q.answer for q in found)
    assert jsonl.check("so \\boxed{204}", found[0]) and not jsonl.check("so \\boxed{205}", found[0])


def script(name: str, tmp_path: Path, **knobs) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "VIRTUAL_ENV": sys.prefix,
        "EXTRAS": "test,ray",
        "OUT": str(tmp_path / "out"),
        **knobs,
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return subprocess.run(
        ["bash", f"scripts/{name}.sh"], cwd=CODE, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("name, methods", [("qwen3", 14), ("deepseek", 13)])
def test_dry_run_prints_the_matrix(name, methods, tmp_path):
    done = script(name, tmp_path, DRY_RUN="1", LIMIT="3", ALONE="1")
    in_turn = script(name, tmp_path, DRY_RUN="1", LIMIT="3").stdout.splitlines()
    settings = [line for line in in_turn if "evaluation.inference" in line]
    assert len(settings) == 3 and all("--methods vanilla " in line for line in settings)
    newer = settings[0].index(" sam_eagle3 "), settings[0].index(" blend ")
    assert newer[0] < newer[1]  # the published methods first
    lines = [x for x in done.stdout.splitlines() if "evaluation.inference" in x]
    assert len(lines) == 3 * methods, done.stderr
    assert sum("best_of_n" in x for x in lines) == methods and all(
        "--question-end 3" in x for x in lines
    )
    assert sum("--temperature 0.0" in x for x in lines) == methods
    assert "without a datastore" in done.stderr and ("sps" in done.stdout) == (name == "qwen3")


class _OneRun:
    """Stands for a matrix of one run, which takes a second to end after Ctrl-C."""

    RUN = """
import sys, time
try:
    print("begun", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    print("saved", flush=True)
"""

    def commands(self):
        yield [sys.executable, "-c", self.RUN]


def test_ctrl_c_waits_for_the_run():
    program = "from tests.test_tasks import _OneRun; from evaluation.running.matrix import"
    program += " run_matrix; run_matrix(_OneRun())"
    matrix = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=CODE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # tests started in the background of a shell have Ctrl-C ignored, and their children too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert matrix.stdout is not None and matrix.stdout.readline() == "begun\n"
    os.killpg(matrix.pid, signal.SIGINT)
    out, _ = matrix.communicate(timeout=240)
    assert out == "saved\n" and matrix.returncode != 0


@pytest.mark.slow
def test_methods_run_beside_each_other_and_their_records_say_so(tmp_path):
    knobs = dict(
        BESIDE="0 1",
        LIMIT="1",
        METHODS="vanilla pld sam",
        PARADIGMS="best_of_n",
        TEMPERATURES="0.6",
        MAX_NEW_TOKENS="100",
    )
    printed = [
        x.split()[0]
        for x in script("mini", tmp_path, DRY_RUN="1", **knobs).stdout.splitlines()
        if "--method" in x
    ]
    assert printed == ["CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1", "CUDA_VISIBLE_DEVICES=0"]
    done = script("mini", tmp_path, **{**knobs, "METHODS": "vanilla pld"})
    assert done.returncode == 0, done.stderr[-2000:]
    records = {f.stem: read_records(f) for f in (tmp_path / "out").rglob("*.jsonl")}
    assert len(records) == 2 and any(r.shared for found in records.values() for r in found)
    assert "on these runs: on the page" in done.stdout
    assert "times are not comparable" in (tmp_path / "out/report/report.html").read_text()
    other = script("mini", tmp_path, **{**knobs, "METHODS": "pld", "MAX_NEW_TOKENS": "50"})
    assert other.returncode == 1 and "a run has failed" in other.stderr  # other settings
    unknown = script("mini", tmp_path, **{**knobs, "METHODS": "vanilla nothing pld"})
    assert unknown.returncode == 2 and "unknown method 'nothing'" in unknown.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "tokenizers").exists(), reason="real tokenizers are not here")
@pytest.mark.parametrize("name", ("qwen3", "deepseek"))
def test_the_scripts_run_at_small_scale(name, tmp_path):
    """Random weights in the true architecture, the real tokenizer, the script as a user runs it; a
    second run skips.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source = {
        "qwen3": ("Qwen3-8B", "qwen3"),
        "deepseek": ("DeepSeek-R1-Distill-Llama-8B", "deepseek-r1-distill-llama-8b"),
    }
    config_name, tokenizer = source[name]
    config = AutoConfig.from_pretrained(SHARED / "configs" / "targets" / config_name)
    config.update(
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 2048,
        }
    )
    if hasattr(config, "layer_types"):
        config.layer_types = config.layer_types[:2]
    torch.manual_seed(0)
    model = tmp_path / "model"
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    for file in (SHARED / "tokenizers" / tokenizer).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    questions = tmp_path / "q.jsonl"
    questions.write_text(
        '{"question_id": 1, "category": "math500", "turns": ["What is 1 + 1?"], "answer": "2"}\n'
    )
    knobs = dict(
        MODEL_PATH=str(model),
        MODEL_NAME="small",
        METHODS="vanilla pld recycling",
        MAX_NEW_TOKENS="10",
        DTYPE="float32",
        QUESTION_FILE=str(questions),
        TEMPERATURES="0.6",
        PARADIGMS="best_of_n",
    )
    done = script(name, tmp_path, **knobs)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "x vanilla" in done.stdout and "all texts are vanilla's" in done.stdout
    assert len(list((tmp_path / "out").rglob("*.jsonl"))) == 3
    if name == "qwen3":  # what both scripts share
        again = script(name, tmp_path, **knobs).stdout
        assert again.count("1 of 1 questions are done already") == 3
