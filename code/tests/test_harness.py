"""Records, writing and resuming, paradigms, prompts, tasks."""

import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation import inference, paradigms, tasks
from evaluation.paradigms import Answer
from evaluation.records.manifest import Manifest
from evaluation.records.reading import json_lines, read_records
from evaluation.records.runs import read_run
from evaluation.records.schema import Record, parse_record, run_lengths
from evaluation.records.traces import parse_traces, to_traces
from evaluation.records.writer import RecordWriter
from evaluation.running.prompting import answer_of, prompt_ids
from evaluation.tasks import Question, jsonl
from model import checkpoint, families
from model.errors import UserError

CODE = Path(__file__).resolve().parents[1]
SHARED = CODE.parents[1] / "shared" / "data"
needs_tokenizers = pytest.mark.skipif(
    not (SHARED / "tokenizers").exists(), reason="real tokenizers are not here"
)


def record(question="1", sample=0, round=0, **changes) -> Record:
    fields = dict(
        question_id=question,
        category="c",
        paradigm="best_of_n",
        choice=0,
        sample=sample,
        round=round,
        seed=0,
        method="pld",
        temperature=0.0,
        memory_scope="request",
        model_id="m",
        answer_id="a",
        prompt_tokens=3,
        prompt_hash="h",
        finish_reason="stop",
        output_ids=[1, 2, 3, 4],
        text="t",
        new_tokens=4,
        forced_tokens=0,
        accept_lengths=[1, 2],
        draft_lengths=[0, 3],
        draft_source=[["none", 1], ["pld", 1]],
        prefill_time=0.1,
        wall_time=1.0,
        draft_time=0.1,
        verify_time=0.7,
        accept_time=0.05,
        other_time=0.05,
        peak_memory=10,
        energy=None,
        error="",
        tstamp=1.0,
        shared=False,
    )
    return Record(**{**fields, **changes})


# --- records and writer ---------------------------------------------------------------------------
def test_a_record_survives_its_line():
    assert parse_record(json.loads(record().line()), "here") == record()


def test_unknown_schema_and_fields_are_refused():
    data = json.loads(record().line())
    with pytest.raises(UserError, match="x, line 1: record schema 99 is unknown"):
        parse_record({**data, "schema": 99}, "x, line 1")
    with pytest.raises(UserError, match="colour"):
        parse_record({**data, "colour": 1}, "x")


def test_run_lengths():
    assert run_lengths("aab") == [["a", 2], ["b", 1]]


def manifest(**settings):
    return Manifest({"settings": {"seed": 0, **settings}})


def test_writer_resumes_and_drops_what_a_kill_left(tmp_path):
    path = tmp_path / "r.jsonl"
    with RecordWriter(path, manifest(), generations=2) as writer:
        writer.append([record("1", 0), record("1", 1)])
    with open(path, "a") as file:
        file.write(record("2", 0).line() + record("2", 1).line()[:40])
    with RecordWriter(path, manifest(), generations=2) as writer:
        assert writer.done == {"1"} and "half-written" in writer.notices[0]
        writer.append([record("2", 0), record("2", 1)])
    assert [r.key for r in read_records(path)] == [
        ("1", 0, 0, 0),
        ("1", 0, 1, 0),
        ("2", 0, 0, 0),
        ("2", 0, 1, 0),
    ]


def test_a_tail_cut_inside_a_character_is_dropped(tmp_path):
    path, notices = tmp_path / "r.jsonl", []
    path.write_bytes(record("1").line().encode() + '{"text": "é"}'.encode()[:11])
    assert [r.question_id for r in read_records(path, notices)] == [
        "1"
    ] and "half-written" in notices[0]
    path.write_bytes(b'{"text": "\xc3"}\n' + record("1").line().encode())
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_records(path)


def test_failed_generations_are_tried_again_unless_they_cannot_succeed(tmp_path):
    path = tmp_path / "r.jsonl"
    failures = ("OutOfMemoryError: ...", "worker died: ...", "context: ...")
    with RecordWriter(path, manifest(), 1) as writer:
        for question, error in enumerate(failures):
            writer.append([record(str(question), finish_reason="failed", error=error)])
    with RecordWriter(path, manifest(), 1) as writer:
        assert writer.done == {"1", "2"}
        with pytest.raises(UserError, match="another process"), RecordWriter(path, manifest(), 1):
            pass  # the lock is held again after the file was rewritten


def test_records_without_their_manifest_are_not_adopted(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(record("1").line())
    with pytest.raises(UserError, match="without its manifest"), RecordWriter(path, manifest(), 1):
        pass
    assert path.read_text() == record("1").line()


def test_other_settings_are_refused_with_the_difference(tmp_path):
    path = tmp_path / "r.jsonl"
    with RecordWriter(path, manifest(), 1) as writer:
        writer.append([record()])
    with (
        pytest.raises(UserError, match="seed: 0 then, 1 now"),
        RecordWriter(path, manifest(seed=1), 1),
    ):
        pass


def _try_to_write(path, found):
    try:
        with RecordWriter(path, manifest(), 1):
            found.put("written")
    except UserError as error:
        found.put(str(error))


def test_a_second_process_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    with RecordWriter(tmp_path / "r.jsonl", manifest(), 1):
        other = context.Process(target=_try_to_write, args=(tmp_path / "r.jsonl", found))
        other.start()
        assert "another process is writing" in found.get(timeout=60)
        other.join()


def test_published_traces_round_trip(tmp_path):
    records = [
        record("1", 0),
        record("1", 1),
        record(
            "2",
            0,
            finish_reason="failed",
            new_tokens=None,
            wall_time=None,
            output_ids=[],
            accept_lengths=[],
            error="OutOfMemoryError",
        ),
    ]
    path = tmp_path / "old.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in to_traces(records)))
    notices: list[str] = []
    (question,) = parse_traces(json_lines(path, notices), notices)
    assert (
        question.accept_lengths == [1, 2, 1, 2]
        and question.total().tokens == 8
        and question.turns == ["t", "t"]
    )
    assert "question 2 failed" in notices[0]
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"question_id": 3, "cho')  # killed while writing
    notices = []
    assert read_run(path, notices).traces == (question,)
    half_written, failed = notices
    assert "the last line is half-written" in half_written and "question 2 failed" in failed


def test_fastchats_reader_accepts_the_export(monkeypatch, tmp_path):
    reader = pytest.importorskip("fastchat.llm_judge.common")
    from evaluation.records import __main__ as module

    source, out = tmp_path / "r.jsonl", tmp_path / "answers" / "m.jsonl"
    source.write_text(record("1", 0).line() + record("1", 1).line())
    out.parent.mkdir()
    monkeypatch.setattr(sys, "argv", ["records", "export", str(source), "--out", str(out)])
    assert module.main() == 0
    assert reader.load_model_answers(str(out.parent))["m"][1]["choices"][0]["turns"] == ["t", "t"]


# --- paradigms ------------------------------------------------------------------------------------
def asked(name: str, final="42", **options) -> list[tuple]:
    module, calls = paradigms.load(name), []

    def generate(messages, sample=0, round=0):
        calls.append(([m["content"] for m in messages], sample, round))
        return Answer(f"<think></think>{final}", final)

    def many(asks):
        return [generate(ask.messages, ask.sample, ask.round) for ask in asks]

    generate.many = many
    module.run("Q?", generate, module.Config(**options))
    assert [c[1:] for c in calls] == module.generations(module.Config(**options))
    return calls


def test_best_of_n_asks_the_same_fresh_prompt():
    assert [c[0] for c in asked("best_of_n", samples=3)] == [["Q?"]] * 3
    assert [len(c[0]) for c in asked("best_of_n", samples=3, bon_prompt="accumulate")] == [1, 2, 3]


def test_multi_round_quotes_the_last_answer():
    first, second, third = asked("multi_round", rounds=3)
    assert first[0] == ["Q?"] and "<answer> 42 </answer>" in second[0][0] and second[0] == third[0]
    assert asked("multi_round", final=None)[1][0] == ["Q?"]


def test_unknown_paradigm():
    with pytest.raises(UserError, match="did you mean 'multi_round'"):
        paradigms.load("multi_rounds")


# --- tasks ----------------------------------------------------------------------------------------
def test_question_files(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"question_id": 1, "category": "c", "turns": ["What?"],'
        ' "solution": "so \\\\boxed{\\\\frac{1}{2}}"}\n'
        '{"question_id": 2, "dataset": "d", "question": "Why?"}'
    )
    first, second = jsonl.questions(file)
    assert first == Question("1", "c", "What?", "\\frac{1}{2}") and second.answer is None
    assert jsonl.check("so \\boxed{\\frac{1}{2}}", first) and jsonl.check("x", second) is None
    for line, message in (
        ('{"question_id": 3}', "line 1: a question needs its text"),
        ("{", "line 1: not JSON"),
        ('{"turns": ["x"]}', "needs a 'question_id'"),
        ("[1]", "a JSON object is expected"),
    ):
        file.write_text(line + "\n")
        with pytest.raises(UserError, match=message):
            jsonl.questions(file)
    file.write_text('{"question_id": 1, "turns": ["a"]}\n{"question_id": 1, "turns": ["b"]}\n')
    with pytest.raises(UserError, match="stands twice"):
        tasks.load("any", str(file))


def test_the_mini_questions():
    module, questions = tasks.load("mini")
    assert len(questions) == 80 and len({q.category for q in questions[:4]}) == 4
    assert module.check(f"... \\boxed{{{questions[0].answer}}}", questions[0])
    assert not module.check("no box", questions[0])


# --- prompting ------------------------------------------------------------------------------------
@needs_tokenizers
@pytest.mark.parametrize(
    "folder, head, family",
    [
        ("qwen3", "<|im_start|>user\n", "qwen3"),
        ("deepseek-r1-distill-llama-8b", "<｜begin▁of▁sentence｜><｜User｜>", "deepseek_r1"),
    ],
)
def test_real_prompts(folder, head, family):
    tokenizer = checkpoint.load_tokenizer(str(SHARED / "tokenizers" / folder))
    config = type("Config", (), {"model_type": "qwen3" if family == "qwen3" else "llama"})
    found = families.family_of(config, tokenizer)
    assert found.name == family
    multi = paradigms.load("multi_round")
    for message in (
        "What is 2+2?",
        multi.second_round_message("What is 2+2?", "It is \\boxed{4}."),
    ):
        ids = prompt_ids(tokenizer, [{"role": "user", "content": message}])
        text = tokenizer.decode(ids)
        assert text.startswith(head + message) and text.count("What is 2+2?") == 1
        assert text.count("<｜begin▁of▁sentence｜>") == (family == "deepseek_r1")
        assert "assistant" in text.lower()
    end = found.end_think_id(tokenizer)
    forcing = found.forcing(tokenizer, 10)
    assert end in forcing.ids and end == {"qwen3": 151668, "deepseek_r1": 128014}[family]
    assert len(forcing.ids) == {"qwen3": 23, "deepseek_r1": 3}[family]
    stops = families.stop_ids(tokenizer, None, found)
    assert stops >= ({151645, 151643} if family == "qwen3" else {128001})
    written = tokenizer.encode(
        "<think>\nhm\n</think>\n\nIt is \\boxed{4}.", add_special_tokens=False
    )
    assert (
        answer_of(tokenizer, found, [*written, next(iter(stops))], stops).final
        == "It is \\boxed{4}."
    )
    assert answer_of(tokenizer, found, written[:3], stops).final is None


def test_a_family_without_thinking_markers():
    tokenizer = checkpoint.load_tokenizer(checkpoint.resolve("mini"))
    default = families.family_of(type("Config", (), {"model_type": "gpt2"}), tokenizer)
    assert default.name == "default" and default.forcing(tokenizer, 5) is None
    assert answer_of(tokenizer, default, tokenizer.encode("hello"), frozenset()).final == "hello"


# --- the whole thing, killed ----------------------------------------------------------------------
def command(path: Path, method: str = "sam") -> list[str]:
    flags = (
        f"--method {method} --model-path mini --question-end 3 --max-new-tokens 60"
        f" --paradigm best_of_n --samples 2 --temperature 0.6 --threads 1 --max-nodes 24"
        f" --answer-file {path}"
    )
    return [sys.executable, "-m", "evaluation.inference", *flags.split()]


def essence(path: Path) -> list[tuple]:
    return [
        (r.key, r.output_ids, r.accept_lengths, r.draft_lengths, r.draft_source)
        for r in read_records(path)
    ]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_and_resumed_equals_an_unbroken_one(tmp_path, capsys):
    unbroken, broken = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    inference.main_for("sam", command(unbroken)[5:])
    rng = random.Random(4)
    for _ in range(2):
        process = subprocess.Popen(
            command(broken), cwd=CODE, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        before = broken.stat().st_size if broken.exists() else 0
        deadline = time.time() + 60
        while process.poll() is None and time.time() < deadline:
            if broken.exists() and broken.stat().st_size > before:
                time.sleep(rng.random() * 0.2)
                process.send_signal(signal.SIGKILL)
            time.sleep(0.01)
        process.wait()
    inference.main_for("sam", command(broken)[5:])
    assert "done already" in capsys.readouterr().out
    assert essence(broken) == essence(unbroken)
    again = broken.read_bytes()
    inference.main_for("sam", command(broken)[5:])
    assert broken.read_bytes() == again


def test_failed_generations_have_no_numbers(monkeypatch, tmp_path):
    from evaluation.running import runner

    calls, real = [], runner.generate

    def sometimes(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:  # the warm-up makes two
            raise MemoryError("out of memory")
        return real(*args, **kwargs)

    monkeypatch.setattr(runner, "generate", sometimes)
    inference.main_for("pld", command(tmp_path / "f.jsonl")[5:])
    records = read_records(tmp_path / "f.jsonl")
    assert [r.failed for r in records] == [True, False, False, False, False, False]
    failed = records[0]
    assert failed.new_tokens is failed.wall_time is failed.draft_time is None
    assert "out of memory" in failed.error
    assert failed.accept_lengths == [] and failed.output_ids == []


def test_a_round_that_outgrows_the_context_fails_alone(monkeypatch, tmp_path):
    from evaluation.running import runner

    real = runner.check

    def narrow(model, request):
        if request.round == 1:
            raise UserError("question 1: exceed the model's context")
        real(model, request)

    monkeypatch.setattr(runner, "check", narrow)
    file = tmp_path / "r.jsonl"
    flags = ["--model-path", "mini", "--question-end", "2", "--max-new-tokens", "12"]
    inference.main_for("pld", [*flags, "--warmup", "0", "--answer-file", str(file)])
    rounds = [(r.round, r.failed) for r in read_records(file)]
    assert rounds == [(0, False), (1, True)] * 2


HOLDS_A_LOCK = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_runs_beside_each_other_are_marked(tmp_path, monkeypatch):
    import torch

    from evaluation.running.sharing import Sharing, device_folder

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    device = torch.device("cpu")
    one = Sharing(device)
    assert one.mark([record()])[0].shared is False
    other = device_folder(device) / "999-999.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS_A_LOCK, str(other)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert one.mark([record()])[0].shared is True
    finally:
        holder.kill()  # a lock ends with its process, however that ends
        holder.wait()
    assert one.mark([record()])[0].shared is False
    assert not other.exists()
    one.close()
    assert not list(device_folder(device).iterdir())
