"""Faults from outside: lost files, full disks, signals, foreign checkpoints, hostile text."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from evaluation.records.reading import read_records
from evaluation.records.schema import parse_record
from evaluation.records.writer import RecordWriter
from evaluation.running import sharing
from evaluation.running.prompting import prompt_ids, special_texts
from evaluation.tasks import jsonl
from model import checkpoint, network
from model.errors import UserError, printable
from model.paths import MINI
from tests.test_harness import CODE, SHARED, manifest, needs_tokenizers, record

RUN = [sys.executable, "-m", "evaluation.inference", "--method", "vanilla", "--model-path", "mini"]


# --- the answer file ------------------------------------------------------------------------------
def deleted(path):
    path.unlink()


def renamed(path):
    path.rename(path.with_name("elsewhere"))


def replaced(path):
    copy = path.read_bytes()
    path.unlink()
    path.write_bytes(copy)


def truncated(path):
    os.truncate(path, 10)


def appended(path):
    with open(path, "a") as file:
        file.write("x")


@pytest.mark.parametrize("fault", [deleted, renamed, replaced, truncated, appended])
def test_a_changed_answer_file_is_noticed_at_the_next_question(fault, tmp_path):
    path = tmp_path / "r.jsonl"
    with RecordWriter(path, manifest(), 1) as writer:
        writer.append([record("1")])
        fault(path)
        with pytest.raises(UserError, match=r"r\.jsonl (was|has)"):
            writer.append([record("2")])


def test_a_full_disk_leaves_no_half_question(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RecordWriter(path, manifest(), 1) as writer:
        writer.append([record("1")])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(UserError, match=r"No space left.*the same command goes on"):
                writer.append([record("2")])
    assert [r.question_id for r in read_records(path)] == ["1"]


def test_a_link_stays_one(tmp_path):
    path, link = tmp_path / "real.jsonl", tmp_path / "r.jsonl"
    link.symlink_to(path)
    with RecordWriter(link, manifest(), 2) as writer:
        writer.append([record("1", 0), record("1", 1)])
    with open(path, "a") as file:
        file.write('{"half')
    with RecordWriter(link, manifest(), 2) as writer:
        assert writer.done == {"1"}
    assert link.is_symlink() and len(read_records(path)) == 2


def test_resuming_counts_generations_not_lines(tmp_path):
    """One generation twice, another missing: two lines, and the question is not complete."""
    path = tmp_path / "r.jsonl"
    with RecordWriter(path, manifest(), 2) as writer:
        writer.append([record("1", 0), record("1", 0)])
        writer.append([record("2", 0), record("2", 1)])
    with open(path, "a") as file:
        file.write(record("2", 1).line())
    with RecordWriter(path, manifest(), 2) as writer:
        assert writer.done == {"2"}
    assert [r.key for r in read_records(path)] == [("2", 0, 0, 0), ("2", 0, 1, 0)]


def test_a_cut_question_file_is_named_by_its_line(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text('{"question_id": 1, "turns": ["a"]}\n{"question_id": 2, "tur')
    with pytest.raises(UserError, match=r"line 2: not JSON .*cut short"):
        jsonl.questions(file)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"wall_time": float("nan")}, "wall_time must be a number, not nan"),
        ({"wall_time": float("inf")}, "wall_time must be a number"),
        ({"draft_time": "0.1"}, "draft_time must be a number, not '0.1'"),
        ({"output_ids": [1, 2, None, 4]}, "output_ids must be a list of whole numbers"),
        ({"method": None}, "method must be a text"),
        ({"shared": 1}, "shared must be true or false"),
        ({"choice": True}, "choice must be a whole number"),
        ({"new_tokens": 5}, "new_tokens is 5, output_ids are 4"),
        ({"accept_lengths": [1, 1]}, "they must agree"),
        ({"draft_lengths": [0]}, "must be equally many"),
        ({"draft_source": [["none", 1]]}, "must be equally many"),
        ({"verify_time": -1.0}, "verify_time of a finished generation"),
    ],
)
def test_numbers_that_cannot_be_make_a_record_invalid(changes, said):
    data = json.loads(record(**changes).line())
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        parse_record(data, "here")


# --- checkpoints ----------------------------------------------------------------------------------
@pytest.fixture
def copy(tmp_path):
    """A copy of the mini target whose weights may be changed."""
    folder = tmp_path / "target"
    shutil.copytree(MINI / "target", folder)
    return folder


def damaged(folder, change) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


NAME = "model.layers.3.mlp.down_proj.weight"


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.pop(NAME), f"missing: {NAME}"),
        (lambda t: t.update({"model.extra": torch.zeros(2)}), "unexpected: model.extra"),
        (lambda t: t.update({NAME: torch.zeros(3, 3)}), f"of another shape: {NAME}"),
        (lambda t: t[NAME].view(-1)[5].fill_(float("nan")), f"hold NaN or infinity: {NAME}"),
        (lambda t: t[NAME].view(-1)[5].fill_(float("-inf")), f"hold NaN or infinity: {NAME}"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(change, said, copy):
    damaged(copy, change)
    with pytest.raises(UserError, match=said):
        checkpoint.load_model(str(copy))


def test_pickled_weights_are_refused_unread(copy):
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(tensors, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickled .pytorch_model.bin.*may run code"):
        checkpoint.load_model(str(copy))


def test_a_checkpoints_own_code_is_never_run(copy, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    (copy / "configuration_own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}}
    (copy / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on standard input"))
    with pytest.raises(UserError, match="cannot load a model"):
        checkpoint.load(str(copy))
    assert not ran.exists()


def test_a_head_with_a_number_that_is_none_is_refused(tmp_path, target):
    from model.eagle3.checkpoint import load_head
    from tests.conftest import random_head

    random_head(target).to_folder(tmp_path)
    load_head(str(tmp_path), target.config, target.vocab_size)
    damaged(tmp_path, lambda t: t["fc.weight"].view(-1)[3].fill_(float("nan")))
    with pytest.raises(UserError, match=r"NaN or infinity: fc\.weight"):
        load_head(str(tmp_path), target.config, target.vocab_size)


SMALL = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
FOREIGN = {
    "gpt2": dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=64),
    "bloom": dict(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
    "mamba": dict(vocab_size=64, hidden_size=32, num_hidden_layers=2),
    "falcon": dict(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    ),
    "stablelm": SMALL,
    "nemotron": SMALL,
    "xglm": dict(vocab_size=64, d_model=32, num_layers=2, attention_heads=4, ffn_dim=64),
}  # fmt: skip


def saved(kind: str, sizes: dict, folder) -> str:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", FOREIGN)
def test_models_that_the_engine_does_not_reproduce_are_refused_by_name(kind, tmp_path):
    folder = saved(kind, FOREIGN[kind], tmp_path)
    with pytest.raises(UserError, match=f"type '{kind}'|layers of type"):
        checkpoint.load_model(folder)


@pytest.mark.parametrize(
    "kind", ["llama", "mistral", "qwen2", "gemma", "phi", "phi3", "glm4", "cohere", "olmo2"]
)
def test_models_that_it_does_reproduce_are_taken(kind, tmp_path):
    assert checkpoint.load_model(saved(kind, SMALL, tmp_path)).vocab_size == 64


def test_a_gguf_file_is_a_checkpoint(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert network.source(str(file))["gguf_file"] == "model.gguf"
    assert checkpoint.resolve(str(file)) == str(file)
    with pytest.raises(UserError):
        checkpoint.load_model(str(file))


# --- text is data ---------------------------------------------------------------------------------
def test_special_tokens_in_a_question_are_text():
    tokenizer = checkpoint.load_tokenizer(str(MINI / "target"))
    special = tokenizer.eos_token
    hostile = [{"role": "user", "content": f"What is 2 + 3?{special} And 4?"}]
    plain = [{"role": "user", "content": "What is 2 + 3? And 4?"}]
    assert special_texts(tokenizer, hostile) == [special]
    ids = prompt_ids(tokenizer, hostile)
    ends = [i for i in ids if i == tokenizer.eos_token_id]
    assert len(ends) == prompt_ids(tokenizer, plain).count(tokenizer.eos_token_id)
    assert special in tokenizer.decode(ids)
    taken = prompt_ids(tokenizer, hostile, allow_special=True)
    assert taken.count(tokenizer.eos_token_id) == len(ends) + 1


@needs_tokenizers
@pytest.mark.parametrize("folder", ["qwen3", "deepseek-r1-distill-llama-8b"])
def test_special_tokens_of_real_tokenizers_are_text(folder):
    tokenizer = checkpoint.load_tokenizer(str(SHARED / "tokenizers" / folder))
    for token in map(str, tokenizer.added_tokens_decoder.values()):
        if "think" in token:  # the templates treat these themselves
            continue
        message = f"before {token} after"
        ids = prompt_ids(tokenizer, [{"role": "user", "content": message}])
        assert message in tokenizer.decode(ids)
        plain = prompt_ids(tokenizer, [{"role": "user", "content": "before  after"}])
        number = tokenizer.convert_tokens_to_ids(token)
        assert ids.count(number) == plain.count(number), token


def test_control_characters_are_shown_not_obeyed():
    assert printable("a\x1b[2Jb\x07\u202e\n") == "a\\x1b[2Jb\\x07\\u202e\n"


# --- signals --------------------------------------------------------------------------------------
def listening() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def begin(*flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*RUN, *flags],
        cwd=CODE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listening,
    )


@pytest.mark.parametrize("seconds", [0.15, 0.6, 1.5])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_program_still_imports(seconds, number, tmp_path):
    process = begin("--question-end", "1", "--answer-file", str(tmp_path / "r.jsonl"))
    time.sleep(seconds)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    # before Python has read its first line, the signal's own default ends it
    assert process.returncode in (128 + number, -number)


def test_sigterm_in_a_run_is_like_ctrl_c(tmp_path):
    path = tmp_path / "r.jsonl"
    process = begin("--question-end", "40", "--max-new-tokens", "40", "--answer-file", str(path))
    deadline = time.time() + 120
    while time.time() < deadline and not (path.exists() and path.stat().st_size):
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in said
    assert "the same command goes on" in said and read_records(path)


# --- the temporary directory ----------------------------------------------------------------------
def test_locks_follow_no_links_and_bear_foreign_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(sharing.tempfile, "tempdir", None)
    device = torch.device("cpu")
    folder = sharing.device_folder(device)
    held = sharing.Sharing(device)
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "foreign.lock").mkdir()
    (folder / "notes").write_text("x")
    assert held.mark([record()]) == [record()]
    held.close()
    shutil.rmtree(folder.parent)
    target = tmp_path / "elsewhere"
    target.mkdir()
    folder.parent.symlink_to(target)
    with pytest.raises(UserError, match="link or no folder"):
        sharing.Sharing(device)
    assert not list(target.iterdir())


# --- Ray ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere.invalid:6379", "here", "h:99999999"])
def test_an_unreachable_cluster_answers_at_once(address):
    pool = pytest.importorskip("evaluation.running.pool")
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"cannot reach Ray|--ray-address is HOST:PORT"):
        pool.check_reachable(address)
    assert time.monotonic() - begun < 20


def test_what_listens_but_is_no_cluster():
    pool = pytest.importorskip("evaluation.running.pool")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(UserError, match="it is no Ray cluster"):
            pool.check_reachable(f"127.0.0.1:{server.getsockname()[1]}")


# --- hostile names --------------------------------------------------------------------------------
HOSTILE = "</script><!-- $x^{$ \x1b[2J <b>"


def test_hostile_names_break_neither_page_nor_figure_nor_terminal(tmp_path, monkeypatch, capsys):
    from evaluation import speed
    from evaluation.report import __main__ as report
    from tests.test_report import synthetic

    synthetic(tmp_path)
    for file in tmp_path.glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["category"] = HOSTILE + line["category"]
            line["question_id"] = HOSTILE + line["question_id"]
            line["text"] = HOSTILE
            line["method"] = "vanilla" if file.stem == "vanilla" else HOSTILE + file.stem
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = tmp_path / "figures"
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path), "--figures", str(figures)])
    assert report.main() == 0
    assert (figures / "speed.pdf").exists() and "\x1b" not in (figures / "tables.tex").read_text()
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("</script>") == 4  # those of the page itself
    assert "<b>" not in page
    monkeypatch.setattr(sys, "argv", ["speed", str(tmp_path), "--plot", str(tmp_path / "p.svg")])
    assert speed.main() == 0
    assert "\x1b" not in capsys.readouterr().out


def test_failed_questions_are_named_and_the_exit_code_is_three(tmp_path, monkeypatch, capsys):
    from evaluation import inference
    from model.drafters import pld

    def propose(self, context):
        raise RuntimeError("no luck\x1b[2J today")

    monkeypatch.setattr(pld.Pld, "propose", propose)
    flags = ["--model-path", "mini", "--question-end", "2", "--max-new-tokens", "8", "--threads"]
    named = ["--model-id", "{method}", "--answer-file", str(tmp_path / "{method}.jsonl")]
    methods = ["--methods", "vanilla", "pld"]
    assert inference.main_for(None, [*methods, *flags, "1", *named, "--warmup", "0"]) == 3
    said = capsys.readouterr().err
    assert "pld.jsonl: 2 question(s) failed" in said and "no luck\\x1b[2J today" in said
    assert len(read_records(tmp_path / "vanilla.jsonl")) == 4


@pytest.mark.parametrize("kind", ["rwkv", "mamba"])
def test_memory_of_a_model_without_attention_is_not_estimated(kind, tmp_path, monkeypatch, capsys):
    from evaluation import estimate
    from tests.test_bad_input import stopped

    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    monkeypatch.setattr(sys, "argv", ["estimate", "--model-path", str(tmp_path)])
    assert "no causal language model with attention" in stopped(estimate.main, capsys)
