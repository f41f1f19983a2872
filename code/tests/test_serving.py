"""Engines that serve: the client against real servers and faulty ones, the adapters against
recorded replies, our own server, the audit.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import audit as audit_command
from evaluation import engine as engine_command
from evaluation import inference, leaderboard, speed
from evaluation.command import run_command
from evaluation.paradigms import GenerationKey
from evaluation.records.manifest import read_manifest
from evaluation.records.reading import read_records
from evaluation.report import __main__ as report
from evaluation.serving import client as client_module
from evaluation.serving import engines
from evaluation.serving.asking import CONTEXT_WORDS, answer_of, seed_of
from evaluation.serving.audit import BREAKS, KEEPS, UNKNOWN, same_distribution
from evaluation.serving.client import Client, Patience, Reply, ReplyFailed
from evaluation.serving.engines.vllm import read_counters
from evaluation.serving.server import Server, Service
from evaluation.serving.shares import Shares
from model import checkpoint, methods
from model.errors import UserError

pytestmark = pytest.mark.slow
REPLIES = Path(__file__).parent / "replies"
RUN = "--question-end 2 --max-new-tokens 24 --warmup 0 --retries 3".split()
SAMPLED = "--paradigm best_of_n --samples 3 --temperature 0.6".split()


@contextlib.contextmanager
def listening(server):
    """The server's address, while it serves."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    host, port = server.server_address
    try:
        yield f"http://{host}:{port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def loaded():
    return checkpoint.load("mini")


def service_of(loaded, method, options=None) -> Service:
    drafter = methods.load(method, loaded.model, options or {})
    return Service(loaded, drafter, "mini", method, max_nodes=8)


@pytest.fixture(scope="module")
def vanilla_url(loaded):
    with listening(Server(service_of(loaded, "vanilla"), "127.0.0.1", 0)) as url:
        yield url


@pytest.fixture(scope="module")
def sam_url(loaded):
    with listening(Server(service_of(loaded, "sam"), "127.0.0.1", 0)) as url:
        yield url


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)


def run(url, path, *flags, method="vanilla"):
    words = ["--base-url", url, "--method", method, "--answer-file", str(path), *RUN, *flags]
    code = engine_command.main(words)
    return code, read_records(path)


# --- a real server --------------------------------------------------------------------------------
@pytest.mark.parametrize("flags", ([], ["--no-stream"]))
def test_a_servers_records_are_those_of_a_run(flags, vanilla_url, tmp_path):
    code, records = run(vanilla_url, tmp_path / "served.jsonl", *flags)
    words = "--model-path mini --thinking-budget off --threads 1 --engine eager".split()
    kept = ["--question-end", "2", "--max-new-tokens", "24", "--warmup", "0"]
    own = tmp_path / "own.jsonl"
    inference.main_for("vanilla", [*words, *kept, "--answer-file", str(own)])
    expected = read_records(own)
    assert code == 0 and [r.key for r in records] == [r.key for r in expected]
    for record, other in zip(records, expected):
        same = ("output_ids", "text", "final_answer", "prompt_ids", "prompt_hash", "new_tokens")
        assert all(getattr(record, name) == getattr(other, name) for name in same)
        assert record.accept_lengths == other.accept_lengths
        assert record.origin == "engine" and record.wall_time > record.prefill_time >= 0
        assert (record.first_token_time is None) == bool(flags)


def test_a_method_behind_a_server_emits_vanillas_texts_in_fewer_steps(
    vanilla_url, sam_url, tmp_path, monkeypatch, capsys
):
    by_method = {}
    for method, url in (("vanilla", vanilla_url), ("sam", sam_url)):
        path = tmp_path / f"{method}.jsonl"
        flags = [*SAMPLED, "--concurrency", "3"]
        code, by_method[method] = run(url, path, *flags, method=method)
        assert code == 0
    vanilla, sam = by_method["vanilla"], by_method["sam"]
    assert {r.key: r.output_ids for r in vanilla} == {r.key: r.output_ids for r in sam}
    assert sum(r.steps for r in sam) < sum(r.steps for r in vanilla)
    assert len({tuple(r.output_ids) for r in vanilla if r.question_id == "1"}) > 1
    assert max(r.batch for r in sam) == 3
    monkeypatch.setattr("sys.argv", ["speed", str(tmp_path)])
    speed.main()
    said = capsys.readouterr().out
    assert "best_of_n, T = 0.6, 3 together" in said and "exact" in said
    monkeypatch.setattr("sys.argv", ["leaderboard", str(tmp_path)])
    leaderboard.main()
    assert "spectts 0" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    report.main()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Requests: median (95th percentile)" in page and "each further token (ms)" in page


def test_other_paradigms_ask_a_server_too(sam_url, tmp_path):
    _, rounds = run(sam_url, tmp_path / "a.jsonl", "--paradigm", "multi_round")
    assert [(r.question_id, r.round) for r in rounds] == [("1", 0), ("1", 1), ("2", 0), ("2", 1)]
    flags = "--paradigm self_consistency --temperature 0.6 --samples 4".split()
    _, voted = run(sam_url, tmp_path / "b.jsonl", *flags)
    assert [r.sample for r in voted] == [0, 1, 2, 3] * 2
    assert all(r.is_whole or r.never_began for r in voted)


def test_what_an_engine_accepts_is_what_a_replay_accepts(
    sam_url, vanilla_url, tmp_path, monkeypatch
):
    """Texts that the budget ends, and such that end by themselves."""
    from evaluation import replay

    budget = ["--max-new-tokens", "330", "--question-end", "1"]
    _, records = run(sam_url, tmp_path / "sam.jsonl", *SAMPLED, *budget, method="sam")
    assert {r.finish_reason for r in records} == {"stop", "length"}
    out = tmp_path / "replay"
    words = [str(tmp_path / "sam.jsonl"), "--methods", "sam", "--max-nodes", "8"]
    replay.main([*words, "--scope", "request", "--out", str(out)])
    (file,) = out.glob("*.jsonl")
    replayed = {r.key: r.accept_lengths for r in read_records(file)}
    for record in records:  # a drafter a request there too
        made = replayed[record.key]
        # where it ends a drafter that knows the budget drafts no further
        assert made == record.accept_lengths or made[:-1] == record.accept_lengths[:-1]
    run(vanilla_url, tmp_path / "vanilla.jsonl", *SAMPLED, *budget)
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    assert report.main() == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Replayed beside measured" in page


def test_a_server_is_described_in_the_manifest_and_the_key_nowhere(
    sam_url, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("SPECTTS_API_KEY", "a-secret-key")
    path = tmp_path / "r.jsonl"
    run(sam_url, path, method="sam")
    told = read_manifest(path).data
    assert told["origin"] == "engine" and told["engine"]["name"] == "spectts"
    assert told["engine"]["settings"] == {"method": "sam", "max_nodes": 8}
    said = capfd.readouterr()
    written = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "a-secret-key" not in written + said.out + said.err


def test_a_run_goes_on_and_other_settings_are_refused(sam_url, tmp_path):
    path = tmp_path / "r.jsonl"
    _, whole = run(sam_url, path, method="sam")
    first = path.read_text().splitlines(keepends=True)[:2]
    path.write_text(first[0])  # killed within a question
    _, again = run(sam_url, path, method="sam")
    assert [r.output_ids for r in again] == [r.output_ids for r in whole]
    with pytest.raises(UserError, match="begun with other settings"):
        run(sam_url, path, "--seed", "3", method="sam")


# --- faults ---------------------------------------------------------------------------------------
class Faulty(ThreadingHTTPServer):
    """Stands before a real server, and does what `faults` says at each request to generate."""

    daemon_threads = True

    def __init__(self, real: str, faults) -> None:
        self.real, self.faults, self.asked, self.keys = real, iter(faults), 0, []
        super().__init__(("127.0.0.1", 0), FaultyHandler)


class FaultyHandler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        page = httpx.get(self.server.real + self.path, trust_env=False)
        self.send(page.status_code, page.content)

    def send(self, status, content, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        self.server.keys.append(self.headers.get("Authorization"))
        fault = next(self.server.faults, None)
        page = httpx.post(self.server.real + self.path, content=body, timeout=60, trust_env=False)
        content = page.content
        if isinstance(fault, int):
            message = json.dumps({"error": {"message": f"made up {fault}"}}).encode()
            self.send(fault, message, [("Retry-After", "0.01")])
            return
        if fault == "silent":
            time.sleep(3)
            return
        if fault == "cut":
            content = content[: len(content) // 2]
        elif fault == "not done":
            content = content.replace(b"data: [DONE]", b"")
        elif fault == "no json":
            content = b"data: {half\n\ndata: [DONE]\n\n"
        elif fault == "error":
            content = b'data: {"error": {"message": "engine died"}}\n\ndata: [DONE]\n\n'
        elif fault == "no usage":
            content = content.replace(b'"usage"', b'"nothing"')
            content = content.replace(b'"token_ids"', b'"no_ids"')
        elif fault == "no reason":
            content = content.replace(b'"finish_reason": "', b'"no_reason": "')
        self.send(page.status_code, content)


@pytest.mark.parametrize(
    "fault", (500, 503, 429, "cut", "not done", "no json", "error", "no reason", "silent")
)
def test_a_failed_request_is_asked_again(fault, vanilla_url, tmp_path):
    _, expected = run(vanilla_url, tmp_path / "expected.jsonl")
    with listening(Faulty(vanilla_url, [fault, fault])) as url:
        flags = ["--timeout", "1"] if fault == "silent" else []
        code, records = run(url, tmp_path / "r.jsonl", *flags)
    assert code == 0 and [r.retries for r in records] == [2, 0, 0, 0]
    assert [r.output_ids for r in records] == [r.output_ids for r in expected]


def test_a_request_that_fails_for_good_is_a_failure_and_no_number(vanilla_url, tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    with listening(Faulty(vanilla_url, [500] * 4)) as url:
        code, records = run(url, path)
    assert code == 3
    (failed,) = [r for r in records if r.failed]
    assert failed.error == "HTTP 500: made up 500 (4 tries)" and failed.new_tokens is None
    assert "1 question(s) failed" in capsys.readouterr().err
    code, records = run(vanilla_url, path)  # it was the server's fault: asked again
    assert code == 0 and not any(r.failed for r in records)


def test_a_text_too_long_fails_alone_and_for_good(vanilla_url, tmp_path):
    path = tmp_path / "r.jsonl"
    code, records = run(vanilla_url, path, "--max-new-tokens", "100000")
    assert code == 3 and all(r.error.startswith("context: HTTP 400") for r in records)


@pytest.mark.parametrize(
    ("faults", "said"),
    (
        ([401], "a key is read from the environment variable SPECTTS_API_KEY"),
        (["no usage"], "no usage, so their tokens cannot be counted"),
    ),
)
def test_what_no_other_request_would_survive_ends_the_run(faults, said, vanilla_url, tmp_path):
    with listening(Faulty(vanilla_url, faults)) as url, pytest.raises(UserError, match=said):
        run(url, tmp_path / "r.jsonl")


def test_wrong_addresses_and_models_are_one_line(vanilla_url, tmp_path, capsys):
    path = str(tmp_path / "r.jsonl")
    for url, flags, said in (
        ("127.0.0.1:8000", [], "--base-url begins with http:// or https://"),
        ("http://127.0.0.1:9", [], "no server answers at http://127.0.0.1:9"),
        (vanilla_url + "/nowhere", [], "does not answer /v1/models"),
        (vanilla_url, ["--model", "nobody"], "--model is what"),
        (vanilla_url, ["--concurrency", "0"], "--concurrency must be at least 1"),
        (vanilla_url, ["--timeout", "0"], "--timeout must be above 0"),
    ):
        words = ["--base-url", url, "--method", "x", "--answer-file", path, *RUN, *flags]
        with pytest.raises(SystemExit) as stop:
            run_command(lambda words=words: engine_command.main(words))()
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert said in err and "Traceback" not in err


def test_the_key_is_sent(vanilla_url, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    server = Faulty(vanilla_url, [])
    with listening(server) as url:
        run(url, tmp_path / "r.jsonl")
    assert set(server.keys) == {"Bearer k"}


class Dying(Server):
    """Goes away in the middle of a reply, without a word."""

    def __init__(self, service, replies) -> None:
        self.left = replies
        super().__init__(service, "127.0.0.1", 0)

    def finish_request(self, request, client_address):
        if self.left <= 0:
            return
        super().finish_request(request, client_address)


def test_a_server_that_goes_away_ends_the_run_and_what_is_there_is_kept(
    loaded, vanilla_url, tmp_path
):
    path = tmp_path / "r.jsonl"
    server = Dying(service_of(loaded, "vanilla"), 1 << 30)
    real, asked = Service.generate, []

    def generate(self, *args):
        asked.append(1)
        if len(asked) == 4:  # the second question's second round
            server.left = 0
            raise ConnectionResetError
        return real(self, *args)

    server.service.generate = generate.__get__(server.service)
    with listening(server) as url:
        with pytest.raises(UserError, match="finished questions are saved"):
            run(url, path)
        kept = read_records(path)
        assert [r.question_id for r in kept] == ["1", "1"]
        server.left = 1 << 30  # it comes back, as another process would at the same address
        code, records = run(url, path)
    _, expected = run(vanilla_url, tmp_path / "expected.jsonl")
    assert code == 0 and [r.output_ids for r in records] == [r.output_ids for r in expected]


def test_ctrl_c_does_not_wait_for_replies_and_loses_nothing(vanilla_url, tmp_path):
    path = tmp_path / "r.jsonl"
    with listening(Faulty(vanilla_url, [None, None, *["silent"] * 50])) as url:
        words = ["--base-url", url, "--method", "vanilla", "--answer-file", str(path), *RUN]
        begun = subprocess.Popen(
            [sys.executable, "-m", "evaluation.engine", *words],
            cwd=Path(__file__).parents[1],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        deadline = time.time() + 60
        while time.time() < deadline and not (path.exists() and path.stat().st_size):
            time.sleep(0.05)
        begun.send_signal(signal.SIGINT)
        _, err = begun.communicate(timeout=30)
    assert begun.returncode == 130 and "the same command goes on" in err
    assert "Traceback" not in err
    assert [r.question_id for r in read_records(path)] == ["1", "1"]


# --- recorded replies -----------------------------------------------------------------------------
def recorded(name: str) -> Reply:
    text = (REPLIES / name).read_text()
    if name.endswith(".txt"):
        return client_module._read_stream(iter(text.splitlines()), time.perf_counter())
    return client_module._read_whole(text)


@pytest.mark.parametrize("name", ("ngram_chat_t0.json", "ngram_chat_ids_stream.txt"))
def test_vllms_replies_are_read(name):
    reply = recorded(f"vllm/{name}")
    assert reply.finish_reason == "length" and (reply.prompt_tokens, reply.new_tokens) == (30, 60)
    assert reply.text.startswith("\nOkay, so I need to find what remains of 110.")
    steps = engines.load("vllm").steps(reply)
    # 20 steps verified a draft and accepted 12; 60 - 1 - 12 = 47 forwards, 27 of them without one
    assert steps.forwards == 47
    if "ids" in name:
        assert len(reply.token_ids) == 60 and len(reply.prompt_ids) == 30


def test_a_vllm_that_tells_nothing_leaves_acceptance_empty():
    reply = recorded("vllm/vanilla_chat_ids.json")
    assert len(reply.token_ids) == reply.new_tokens == 60
    assert engines.load("vllm").steps(reply) == engines.Steps()
    several = recorded("vllm/ngram_chat_n2.json")
    assert engines.load("vllm").steps(several) == engines.Steps()


def test_vllms_last_step_may_accept_more_than_is_returned():
    told = {"num_spec_steps": 15, "num_accepted_draft_tokens": 45}
    reply = Reply(new_tokens=60, extra={"metrics": {"speculative_decoding": told}})
    assert engines.load("vllm").steps(reply).forwards == 15


def test_vllms_counters_are_compared_before_and_after():
    before, after = (
        read_counters((REPLIES / f"vllm/ngram_metrics_{when}.prom").read_text())
        for when in ("before", "end")
    )
    assert before["drafts"] == 0 and after["drafts"] > 0
    assert after["accepted"] == sum(v for k, v in after.items() if k.startswith("accepted_"))
    difference = {name: after[name] - before.get(name, 0) for name in after}
    steps = engines.load("vllm").counted(difference)
    behind = difference["tokens"] - difference["requests"]
    assert steps.forwards == behind + 1 - 1 - difference["accepted"]


def test_a_stream_of_an_engine_that_died_is_no_reply():
    with pytest.raises(client_module._TryAgain, match="the server failed"):
        recorded("vllm/enginedeath_chat_stream.txt")


@pytest.mark.parametrize(
    ("name", "said"),
    (
        ("ngram_err_model.json", "The model `nobody` does not exist. Valid aliases: mini."),
        (
            "ngram_err_max_tokens_chat.json",
            "max_tokens=100000 cannot be greater than max_model_len",
        ),
    ),
)
def test_vllms_refusals_are_quoted(name, said):
    assert client_module._message((REPLIES / "vllm" / name).read_text()).startswith(said)


def test_vllm_is_recognised_by_what_it_says():
    class Recorded:
        def get(self, path):
            pages = {"/v1/models": "ngram_models.json", "/version": "ngram_version.json"}
            file = pages.get(path)
            return json.loads((REPLIES / "vllm" / file).read_text()) if file else None

    engine, about = engines.recognised(Recorded())
    assert (engine.name, about.version) == ("vllm", "0.32.0")


@pytest.mark.parametrize("name", ("draft_chat_t0.json", "draft_chat_t0_stream_usage.txt"))
def test_llama_servers_replies_are_read(name):
    reply = recorded(f"llama_server/{name}")
    assert reply.finish_reason == "length" and reply.new_tokens == 120
    assert reply.text.startswith("<think>\nOkay, so I need to find what remains of 110.")
    # 94 of 100 drafted tokens accepted: 120 - 1 - 94
    assert engines.load("llama_server").steps(reply).forwards == 25


def test_a_llama_server_without_a_draft_leaves_acceptance_empty():
    reply = recorded("llama_server/none_chat_t0.json")
    assert reply.new_tokens == 120
    assert engines.load("llama_server").steps(reply) == engines.Steps()


def test_llama_server_is_recognised_by_what_it_says():
    class Recorded:
        def get(self, path):
            pages = {"/props": "draft_props.json", "/slots": "draft_slots.json"}
            pages["/v1/models"] = "none_models.json"
            file = pages.get(path)
            return json.loads((REPLIES / "llama_server" / file).read_text()) if file else None

    engine, about = engines.recognised(Recorded())
    assert engine.name == "llama_server" and about.version
    assert about.settings == {"model": "all F32", "speculative": True}


@pytest.mark.parametrize("name", ("sglang_chat_spec.json", "sglang_chat_spec_stream.txt"))
def test_sglangs_replies_are_read(name):
    reply = recorded(f"sglang/{name}")
    engine = engines.load("sglang")
    assert reply.finish_reason and reply.new_tokens
    told = reply.extra["sglext"]["spec_tokens_details"]
    assert engine.steps(reply).forwards == told["spec_verify_ct"] > 0
    length = reply.new_tokens / told["spec_verify_ct"]
    assert told["spec_accept_length"] == pytest.approx(length)  # the prefill's token counted


def test_an_sglang_that_does_not_speculate_leaves_acceptance_empty():
    assert (
        engines.load("sglang").steps(recorded("sglang/sglang_chat_plain.json")) == engines.Steps()
    )
    ids = Reply(extra={"sglext": {"output_ids": [[4, 5, 6]]}})
    assert engines.load("sglang").token_ids(ids) == [4, 5, 6]


def test_sglang_is_recognised_by_what_it_says():
    class Recorded:
        def get(self, path):
            pages = {"/server_info": "sglang_server_info.json"}
            file = pages.get(path)
            told = {"/v1/models": {"data": [{"id": "m", "owned_by": "sglang"}]}}
            return json.loads((REPLIES / "sglang" / file).read_text()) if file else told.get(path)

    engine, about = engines.recognised(Recorded())
    assert engine.name == "sglang" and about.version
    assert about.settings and all(name.startswith("speculative") for name in about.settings)


def test_llama_servers_refusal_is_for_good():
    said = client_module._message((REPLIES / "llama_server/none_err_long_chat.json").read_text())
    assert any(word in said for word in CONTEXT_WORDS)


def test_every_engine_samples_from_all_tokens():
    """Servers have defaults of their own, as the 40 likeliest tokens."""
    for name in ("vllm", "sglang", "llama_server"):
        asked = engines.load(name).asked({"top_p": 1.0})
        assert asked["top_k"] <= 0 and asked["min_p"] == 0
        assert engines.load(name).asked({"top_k": 5})["top_k"] == 5


def test_every_engine_says_how_it_converts():
    assert engines.names()[-1] == "openai" and len(engines.names()) >= 5
    for name in engines.names():
        engine = engines.load(name)
        assert engine.name == name and engine.conversion


# --- parts ----------------------------------------------------------------------------------------
@given(events=st.lists(st.tuples(st.floats(0.01, 9), st.integers(0, 4)), min_size=1, max_size=30))
def test_shares_add_up_to_the_time_in_which_anything_was_in_flight(events):
    now, busy = 0.0, 0.0
    shares = Shares(lambda: now)
    flying, charges = [], []
    for pause, what in events:
        busy += pause if flying else 0.0
        now += pause
        if what and flying:
            shares.end(flying.pop(what % len(flying)))
        else:
            charges.append(shares.begin())
            flying.append(charges[-1])
    for charge in flying:
        shares.end(charge)
    assert sum(charge.seconds for charge in charges) == pytest.approx(busy)


def test_every_generation_has_a_seed_of_its_own():
    keys = [GenerationKey(c, s, r) for c in range(2) for s in range(3) for r in range(2)]
    seeds = {seed_of(0, question, key) for key in keys for question in ("1", "2")}
    assert len(seeds) == 24 and all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("reply", "end", "final"),
    (
        (Reply(text="<think>a</think> 7<|im_end|>"), "</think>", "7"),
        (Reply(text="<think>a and never"), "</think>", None),
        (Reply(text="7"), "", "7"),
        (Reply(text=" 7", reasoning="a"), "</think>", "7"),
        (Reply(text="", reasoning="a"), "</think>", None),
    ),
)
def test_the_answer_is_what_follows_the_thinking(reply, end, final):
    assert answer_of(reply, end).final == final


# --- our server -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "status", "said"),
    (
        ({"model": "nobody"}, 400, "the model here is 'mini'"),
        ({"messages": "hello"}, 400, "messages is a list"),
        ({"messages": [{"role": "user"}]}, 400, "messages is a list"),
        ({"n": 2}, 400, "n is 1"),
        ({"max_tokens": 0}, 400, "max_tokens is a number of at least 1"),
        ({"max_tokens": 10**6}, 400, "context"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "warm"}, 400, "temperature"),
        ({"logprobs": True, "top_logprobs": 99}, 400, "top_logprobs is at most"),
        ([], 400, "the body is a JSON object"),
    ),
)
def test_our_server_says_what_is_wrong(body, status, said, vanilla_url):
    if isinstance(body, dict):
        body = {"messages": [{"role": "user", "content": "2 + 2?"}], **body}
    reply = httpx.post(f"{vanilla_url}/v1/chat/completions", json=body, trust_env=False)
    assert reply.status_code == status and said in reply.json()["error"]["message"]


def test_our_servers_other_pages(vanilla_url):
    ask = {"prompt": [1, 2, 3], "max_tokens": 5, "temperature": 0, "return_token_ids": True}
    whole = httpx.post(f"{vanilla_url}/v1/completions", json=ask, trust_env=False).json()
    assert len(whole["choices"][0]["token_ids"]) == whole["usage"]["completion_tokens"] == 5
    assert whole["choices"][0]["text"]
    assert httpx.get(f"{vanilla_url}/nothing", trust_env=False).status_code == 404
    assert httpx.post(f"{vanilla_url}/nothing", json={}, trust_env=False).status_code == 404
    half = httpx.post(f"{vanilla_url}/v1/chat/completions", content=b"{", trust_env=False)
    assert half.status_code == 400 and "no JSON" in half.text


def test_the_serve_command_serves_until_ctrl_c(tmp_path):
    words = "--model-path mini --method pld --threads 1 --engine eager --port 0".split()
    served = subprocess.Popen(
        [sys.executable, "-m", "evaluation.serve", *words],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    said = served.stdout.readline()
    url = said.split(" at ")[1].split(";")[0]
    code, records = run(url, tmp_path / "r.jsonl", method="pld")
    assert code == 0 and len(records) == 4
    served.send_signal(signal.SIGINT)
    _, err = served.communicate(timeout=30)
    assert served.returncode == 130 and "Traceback" not in err


# --- the audit ------------------------------------------------------------------------------------
AUDIT = "--questions 1 --max-new-tokens 24 --seeds 24 --tie 0.001 --temperature 1.5".split()


def audited(url, out, *flags):
    code = audit_command.main(["--base-url", url, "--out", str(out), *AUDIT, *flags])
    findings = json.loads((out / "audit.json").read_text())["findings"]
    return code, {found["check"].split(" of ")[0]: found["verdict"] for found in findings}


def test_an_honest_server_passes(vanilla_url, sam_url, tmp_path, monkeypatch):
    code, verdicts = audited(sam_url, tmp_path, "--against", vanilla_url)
    assert code == 0 and set(verdicts.values()) <= {KEEPS, UNKNOWN}
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    run(vanilla_url, tmp_path / "vanilla.jsonl")
    assert report.main() == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "audit of spectts at" in page and KEEPS in page


def test_our_own_engine_is_a_reference(sam_url, tmp_path):
    code, verdicts = audited(sam_url, tmp_path, "--reference", "mini")
    assert code == 0 and BREAKS not in verdicts.values()


class Cheat(Service):
    """Serves something else than it was asked for."""

    how = ""

    def asked(self, body, is_chat):
        if self.how == "ignores seeds":
            body = {**body, "seed": None}
        elif self.how == "one seed for all":
            body = {**body, "seed": 1}
        elif self.how == "another temperature" and body.get("temperature"):
            body = {**body, "temperature": 6.0}
        return super().asked(body, is_chat)

    def generate(self, asked, on_step=None):
        generation, logprobs = super().generate(asked, on_step)
        if self.how == "changes one token" and len(generation.output_ids) > 9:
            generation.output_ids[9] = (generation.output_ids[9] + 1) % 100
        return generation, logprobs


@pytest.mark.parametrize(
    ("how", "broken", "seeds"),
    (
        ("ignores seeds", "seeds", "4"),
        ("one seed for all", "seeds", "4"),
        ("another temperature", "distribution", "50"),
        ("changes one token", "greedy texts are those", "4"),
    ),
)
def test_a_server_that_cheats_is_caught(how, broken, seeds, loaded, vanilla_url, tmp_path):
    cheat = Cheat(loaded, methods.load("vanilla", loaded.model), "mini", "vanilla")
    cheat.how = how
    with listening(Server(cheat, "127.0.0.1", 0)) as url:
        code, verdicts = audited(url, tmp_path, "--against", vanilla_url, "--seeds", seeds)
    assert code == 3
    assert BREAKS in [verdict for check, verdict in verdicts.items() if check.startswith(broken)]


@pytest.mark.parametrize("seed", range(3))
def test_samples_of_one_distribution_are_seldom_told_apart(seed):
    rng = np.random.default_rng(seed)
    same = [Counter(rng.geometric(0.3, 200).tolist()) for _ in range(2)]
    other = Counter(rng.geometric(0.6, 200).tolist())
    assert same_distribution(*same)[0] > 0.01
    assert same_distribution(same[0], other)[0] < 0.001


def test_patience_ends():
    client = Client("http://127.0.0.1:9", Patience(timeout=1, retries=1))
    with pytest.raises(UserError, match="no server answers"):
        client.chat({})
    with listening(Faulty("http://127.0.0.1:9", [])) as url, pytest.raises(ReplyFailed):
        Client(url, Patience(timeout=1, retries=1)).chat({"stream": True})


# --- a library in this process --------------------------------------------------------------------
class FakeVllm:
    """vLLM's Python API over our own service, as far as it is used."""

    __version__ = "0.0"

    def __init__(self, service):
        self.service, self.batches, self.options = service, [], {}

    def SamplingParams(self, **params):
        return params

    def LLM(self, model, **options):
        self.options = options
        return self

    def chat(self, conversations, params, use_tqdm):
        self.batches.append(len(conversations))
        outputs = []
        for messages, of_request in zip(conversations, params, strict=True):
            body = {"messages": messages, **of_request}
            assert (body["top_k"], body["min_p"]) == (-1, 0.0)  # all tokens
            asked = self.service.asked(body, is_chat=True)
            generation, _ = self.service.generate(asked)
            spec = SimpleNamespace(
                to_dict=lambda g=generation: {
                    "num_spec_steps": 0,
                    "num_accepted_draft_tokens": sum(g.accept_lengths) - len(g.accept_lengths),
                }
            )
            made = SimpleNamespace(
                text=self.service.text(generation.output_ids),
                token_ids=generation.output_ids,
                finish_reason=generation.finish_reason,
                spec_decode_metrics=spec,
            )
            times = SimpleNamespace(first_token_latency=0.001)
            prompt = asked.request.prompt_ids
            outputs.append(SimpleNamespace(outputs=[made], prompt_token_ids=prompt, metrics=times))
        return outputs


def test_vllm_as_a_library_yields_the_same_records(loaded, vanilla_url, tmp_path, monkeypatch):
    fake = FakeVllm(service_of(loaded, "sam"))
    monkeypatch.setitem(sys.modules, "vllm", fake)
    path = tmp_path / "lib.jsonl"
    words = "--engine-lib vllm --model folder --method sam --concurrency 3".split()
    options = ["--lib-options", '{"speculative_config": {"method": "x"}}']
    words += [*options, "--answer-file", str(path), *RUN, *SAMPLED]
    assert engine_command.main(words) == 0
    _, expected = run(vanilla_url, tmp_path / "served.jsonl", *SAMPLED)
    records = sorted(read_records(path), key=lambda record: record.key)
    assert [r.output_ids for r in records] == [r.output_ids for r in expected]
    assert all(0 < r.target_forwards < r.new_tokens for r in records)
    assert max(fake.batches) > 1 and fake.options["per_request_spec_decode_metrics"] == "detailed"
    assert read_manifest(path).data["engine"]["settings"] == {"method": "x"}


def test_a_library_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "vllm", None)
    for flags, said in (
        (["--engine-lib", "vllm", "--model", "x"], "vLLM is not installed in this environment"),
        (["--engine-lib", "vllm"], "--engine-lib needs --model"),
        (["--engine-lib", "tgi", "--model", "x"], "--engine-lib is one of vllm, not 'tgi'"),
        (["--engine-lib", "vllm", "--model", "x", "--lib-options", "[]"], "--lib-options"),
    ):
        with pytest.raises(SystemExit) as stop:
            run_command(lambda flags=flags: engine_command.main([*flags, "--method", "x"]))()
        assert stop.value.code == 2 and said in capsys.readouterr().err
