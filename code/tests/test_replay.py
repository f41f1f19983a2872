"""Replays: equal to real runs of the same drafters; formats, bounds, price, sweep, golden file."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import replay as command
from evaluation.analysis.bounds import bounds
from evaluation.analysis.curve import CostCurve
from evaluation.analysis.price import Costs, built_in, read_costs
from evaluation.analysis.replay_summary import FILE, read_summary
from evaluation.analysis.replays import Steps, mat, match_lengths
from evaluation.records.reading import read_records
from evaluation.records.topk import KEPT, Topk
from evaluation.records.traces import to_traces
from evaluation.replaying.golden import rates
from evaluation.replaying.topk import topk_of_steps
from evaluation.running.topk import TopkRecorder
from model import methods
from model.contract import Request
from model.engine.decode import generate
from model.engine.replay import Replay, Script, replay
from model.errors import UserError
from model.paths import MINI
from tests.conftest import METHODS, PROMPT
from tests.test_harness import CODE

REPLAYED = [name for name in METHODS if not methods.why_no_replay(name)]
TOKENIZER = str(MINI / "target")


# --- the same as a real run -----------------------------------------------------------------------
@pytest.mark.parametrize("scope", ("request", "question", "run"))
@pytest.mark.parametrize("method", REPLAYED)
def test_a_replay_accepts_what_the_run_accepted(method, scope, target, load):
    real, replayed = load(method), load(method)
    for drafter in (real, replayed):
        drafter.remember(scope)
        drafter.enter("run", "r")
    for question in ("a", "b"):
        real.enter("question", question)
        replayed.enter("question", question)
        for sample in range(2):
            request = Request(PROMPT, 70, 0.7, seed=5, question_id=question, sample=sample)
            recorder = TopkRecorder.of(10, real)
            real.enter("request", f"{question}{sample}")
            replayed.enter("request", f"{question}{sample}")
            run = generate(target, real, request, max_nodes=20, record=recorder)
            topk = topk_of_steps(recorder.packed(), "here", replayed.needs.target_topk)
            again = replay(replayed, Script(request, run.output_ids, topk), max_nodes=20)
            assert (again.accept_lengths, again.draft_lengths, again.sources) == (
                run.accept_lengths,
                run.draft_lengths,
                run.sources,
            )
            assert again.output_ids == run.output_ids


def test_a_replay_of_another_text_than_the_recorded_is_noticed(load):
    request = Request(PROMPT, 4)
    replaying = Replay(load("vanilla"), Script(request, [1, 2, 3, 4, 5]))
    while not replaying.finished:
        replaying.step()
    with pytest.raises(ValueError, match="not the recorded one"):
        replaying.result()


@pytest.fixture(scope="module")
def run_records(tmp_path_factory) -> Path:
    """Records of a small real run of the mini family: vanilla and two methods."""
    from evaluation.running import loop
    from evaluation.running.several import parse_several

    folder = tmp_path_factory.mktemp("run")
    flags = "--model-path mini --paradigm best_of_n --samples 3 --temperature 0.6"
    flags += " --question-end 3 --max-new-tokens 120 --threads 1 --max-nodes 24 --record-topk 10"
    words = ["--methods", "vanilla", "sam", "pia", "stand", *flags.split()]
    specs = parse_several([*words, "--answer-file", str(folder / "{method}.jsonl")])
    assert loop.run(specs, words) == 0
    return folder


def replayed(traces: Path, out: Path, *flags: str) -> dict[str, list]:
    """Records by method of a replay."""
    assert command.main([str(traces), "--out", str(out), *flags]) == 0
    found = {}
    for path in out.glob("*.jsonl"):
        records = read_records(path)
        found[records[0].method] = records
    return found


def test_records_of_a_run_replay_to_its_accept_lengths(run_records, tmp_path, capsys):
    again = replayed(
        run_records / "vanilla.jsonl",
        tmp_path,
        *(
            "--methods",
            "sam",
            "pia",
            "stand",
            "recycling",
            "--max-nodes",
            "24",
            "--format",
            "markdown",
        ),
    )
    for method in ("sam", "pia", "stand"):
        real = {record.key: record for record in read_records(run_records / f"{method}.jsonl")}
        for record in again[method]:
            assert record.accept_lengths == real[record.key].accept_lengths
            assert record.draft_lengths == real[record.key].draft_lengths
            assert record.output_ids == real[record.key].output_ids
            assert record.prompt_ids == real[record.key].prompt_ids
            assert (record.origin, record.wall_time) == ("replay", None)
    shown = capsys.readouterr().out
    assert "recycling learns from rejected tokens too" in shown
    summary = read_summary(tmp_path / FILE)
    assert summary.generations == 9 and summary.questions == 3
    combined = Steps.sum_of(summary.combination.values()).mat
    assert combined >= max(mat(m.tally.of_questions()).mean for m in summary.methods.values()) - 0.3
    assert summary.bounds["question"].mat > summary.bounds["request"].mat


def test_text_in_any_format_gives_the_ids_of_the_records(run_records, tmp_path):
    records = read_records(run_records / "vanilla.jsonl")
    as_lines = tmp_path / "lines.jsonl"
    log = tmp_path / "log.jsonl"
    published = tmp_path / "published.jsonl"
    lines, logs = [], []
    for record in records:
        line = {"q": record.question_id, "n": record.sample, "answer": record.text}
        lines.append({**line, "asked": record.prompt_ids, "complete": True})
        message = {"role": "assistant", "content": record.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        asked = {"messages": [{"role": "user", "content": "1 + 1?"}], "model": "mini"}
        logs.append({"question_id": record.question_id, "request": asked, "choices": [choice]})
    for path, objects in (
        (as_lines, lines),
        (log, logs),
        (published, to_traces(records)),
    ):
        path.write_text("".join(json.dumps(item) + "\n" for item in objects))
    named = ["--text-field", "answer", "--question-field", "q", "--sample-field", "n"]
    common = ["--methods", "pld", "--tokenizer", TOKENIZER, "--no-bounds"]
    named += ["--prompt-ids-field", "asked"]
    found = [
        replayed(as_lines, tmp_path / "a", *common, *named)["pld"],
        replayed(log, tmp_path / "b", *common, "--question-field", "question_id")["pld"],
        replayed(published, tmp_path / "c", *common, "--paradigm", "best_of_n")["pld"],
    ]
    for again in found:
        assert len(again) == len(records)
        for record, original in zip(again, records, strict=True):
            text = original.output_ids
            assert record.output_ids in (text, text[:-1])  # the stop token is not in the text
            assert (record.sample, record.round) == (original.sample, 0)
    assert [r.prompt_ids for r in found[0]] == [r.prompt_ids for r in records]
    assert found[1][0].prompt_ids and not found[2][0].prompt_ids


@pytest.mark.parametrize(
    "lines, flags, message",
    [
        ([], [], "is empty"),
        (["{"], [], "line 1: not JSON"),
        (["[1]"], [], "line 1: a JSON object is expected"),
        (['{"a": 1}'], [], "the fields are a"),
        (['{"text": "x", "sample": -1}'], [], "'sample' must be a whole number"),
        (['{"token_ids": [1, "2"]}'], [], "'token_ids' must be a list of token ids"),
        (['{"text": "a"}'], ["--tokenizer", ""], "give the model's tokenizer"),
        (['{"token_ids": [1], "sample": 0}'] * 2, [], "has a sample 0"),
        (['{"token_ids": [1048576]}'], [], "whole numbers below 1048576"),
        (['{"text": "a", "complete": "false"}'], [], "'complete' must be true or false"),
        (['{"text": "a", "temperature": "0.7"}'], [], "temperature must be a number"),
        (['{"text": "a\\ud83d"}'], [], "half a character"),
        (['{"choices": [1]}'], [], "the fields are choices"),
        (['{"choices": [{"text": "a"}]}'], [], "neither 'messages' nor 'prompt'"),
        (['{"prompt": "a", "choices": [{"text": "a"}], "sample": "x"}'], [], "whole number"),
        (
            ['{"prompt": "a", "choices": [{"message": {"tool_calls": [1]}}]}'],
            [],
            "a message with tool calls",
        ),
        (
            ['{"prompt": "a", "choices": [{"message": {"reasoning": [1], "content": "a"}}]}'],
            [],
            "must be a text, not list",
        ),
        (['{"question_id": 1, "choices": [{"turns": "abc"}]}'], [], "must be a list of texts"),
        (['{"text": "a"}'], ["--hold-out", "0.5"], "--hold-out needs --sweep"),
        (['{"text": "a"}'], ["--sweep", "sam_nodes=8,8"], "named twice"),
        (['{"text": "a"}'], ["--sam-alpha", "0"], "--sam-alpha must be above 0"),
        (['{"text": "a"}'], ["--costs", ""], "cannot read --costs"),
        (['{"text": "a b", "token_ids": [1, 2]}'], [], "does not make the text"),
        (['{"text": ""}'], [], "the text is empty"),
        (['{"text": "a", "prompt": [{"x": 1}]}'], [], "must be a list of chat messages"),
        (['{"text": "a"}'], ["--methods", "eagle3"], "'eagle3' cannot be replayed: its head"),
        (['{"text": "a"}'], ["--methods", "sam[sps]"], "cannot be replayed"),
        (['{"text": "a"}'], ["--methods", "recycling"], "likeliest tokens"),
        (['{"text": "a"}'], ["--costs", "none"], "cannot read --costs none"),
        (['{"text": "a"}'], ["--sweep", "sam_nodes"], "OPTION=VALUE"),
        (['{"text": "a"}'], ["--sweep", "nodes=1"], "no method here has an option nodes"),
        (['{"text": "a"}'], ["--sweep", "sam_nodes=x"], "'x' is no int"),
        (
            ['{"text": "a"}'],
            ["--sweep", "sam_nodes=8", "--hold-out", "0.5"],
            "leaves none to choose on",
        ),
    ],
)
def test_bad_input_is_one_line(lines, flags, message, tmp_path):
    traces = tmp_path / "traces.jsonl"
    traces.write_text("\n".join(lines))
    words = ["--methods", "sam", "--tokenizer", TOKENIZER, "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=message) as raised:
        command.main([str(traces), *words, *flags])
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("out/*.jsonl"))


def test_files_that_cannot_be_told_apart_or_read_are_refused(tmp_path, run_records):
    lines = '{"text": "1 + 1 = 2"}\n'
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text(lines)
    one = tmp_path / "a" / "x.jsonl"
    words = ["--methods", "sam", "--tokenizer", TOKENIZER, "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="given twice"):
        command.main([str(one), str(one), *words])
    with pytest.raises(UserError, match="no file that can be read twice"):
        command.main(["/dev/null", *words])
    assert command.main([str(tmp_path / "a"), str(tmp_path / "b"), *words]) == 0
    assert read_summary(tmp_path / "out" / FILE).questions == 2
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes((run_records / "vanilla.jsonl").read_bytes())
    with pytest.raises(UserError, match="without their manifest"):
        command.main([str(alone), *words])
    with pytest.raises(UserError, match="one run at a time"):
        command.main([str(one), str(alone), *words])


def test_null_fields_are_absent_ones(tmp_path):
    traces = tmp_path / "traces.jsonl"
    line = {"question_id": None, "model": None, "sample": None, "source": None}
    prompts = ("1", "2", "1")
    lines = [{**line, "prompt": prompt, "text": "1 + 1"} for prompt in prompts]
    traces.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = replayed(traces, tmp_path / "out", "--methods", "sam", "--tokenizer", TOKENIZER)["sam"]
    assert len({r.question_id for r in found}) == 2 and {r.category for r in found} == {"all"}
    assert not any("None" in r.question_id for r in found)


def test_bad_lines_are_left_out_where_asked(tmp_path, capsys):
    traces = tmp_path / "traces.jsonl"
    good = '{"text": "1 + 1 = 2"}\n'
    traces.write_text("nonsense\n" + good + '{"text": 3}\n' + good)
    flags = ["--methods", "pld", "--tokenizer", TOKENIZER, "--skip-bad-lines"]
    found = replayed(traces, tmp_path / "out", *flags)["pld"]
    assert [(r.sample, r.question_id) for r in found] == [
        (0, found[0].question_id),
        (1, found[0].question_id),
    ]
    assert "2 malformed line(s) left out" in capsys.readouterr().out


# --- together, and spread over processes ----------------------------------------------------------
def test_interleaved_samples_see_each_other_while_they_grow(tmp_path):
    """Three equal texts: alone the first has nothing to copy, in turn it learns from the second."""
    text = np.random.default_rng(0).integers(3, 40, 200).tolist()
    traces = tmp_path / "traces.jsonl"
    line = {"question_id": "q", "prompt_ids": [1, 2], "token_ids": text}
    traces.write_text("".join(json.dumps({**line, "sample": s}) + "\n" for s in range(3)))
    flags = ["--methods", "sam", "--no-bounds"]
    after = replayed(traces, tmp_path / "a", *flags)["sam"]
    beside = replayed(traces, tmp_path / "b", *flags, "--interleave", "3")["sam"]
    steps = [len(record.accept_lengths) for record in beside]
    assert len(after[1].accept_lengths) < 20 and len(after[0].accept_lengths) > 150
    # side by side a later sample can copy only what the one before it has just written
    assert steps[1] >= steps[0] - 1 > 100
    apart = replayed(traces, tmp_path / "c", *flags, "--interleave", "3", "--scope", "request")
    alone = replayed(traces, tmp_path / "d", *flags, "--scope", "request")
    assert [r.accept_lengths for r in apart["sam"]] == [r.accept_lengths for r in alone["sam"]]


def test_workers_write_what_one_process_writes(tmp_path):
    rng = np.random.default_rng(1)
    traces = tmp_path / "traces.jsonl"
    lines = []
    for question in range(command.FEW_QUESTIONS):
        for sample in range(2):
            ids = rng.integers(3, 9, 60).tolist()
            lines.append({"question_id": str(question), "sample": sample, "token_ids": ids})
    rng.shuffle(lines)
    traces.write_text("".join(json.dumps(line) + "\n" for line in lines))
    one = replayed(traces, tmp_path / "one", "--methods", "sam", "pia", "--workers", "1")
    two = replayed(traces, tmp_path / "two", "--methods", "sam", "pia", "--workers", "2")
    for method, records in one.items():
        assert [(r.key, r.accept_lengths) for r in records] == [
            (r.key, r.accept_lengths) for r in two[method]
        ]
    totals = [read_summary(tmp_path / n / FILE).bounds["question"].mat for n in ("one", "two")]
    assert totals[0] == totals[1]


# --- bounds ---------------------------------------------------------------------------------------
texts = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=1, max_size=8),
        st.lists(st.integers(0, 3), min_size=1, max_size=30),
    ),
    min_size=1,
    max_size=3,
)


def occurs(texts: list[list[int]], pattern: list[int]) -> bool:
    n = len(pattern)
    return any(t[i : i + n] == pattern for t in texts for i in range(len(t) - n + 1))


@settings(max_examples=150, deadline=None)
@given(texts, st.booleans())
def test_bounds_by_brute_force(pairs, is_shared):
    found = [0] * 8
    tokens = steps = 0
    earlier: list[list[int]] = []
    for prompt, output in pairs:
        memory = earlier if is_shared else []
        at = 1
        while at < len(output):
            known = prompt + output[:at]
            longest = 0
            while at + longest < len(output) and occurs(
                [*memory, known], output[at - 1 : at + longest + 1]
            ):
                longest += 1
            emitted = min(longest + 1, len(output) - at)
            for position in range(at, at + emitted):
                text = prompt + output[:position]
                for k in range(1, 9):
                    if len(text) >= k:
                        found[k - 1] += occurs([*memory, text], [*text[-k:], output[position]])
            tokens, steps, at = tokens + emitted, steps + 1, at + emitted
        earlier.append(prompt + output)
    result = bounds(pairs, is_shared)
    assert (result.tokens, result.steps, result.found) == (tokens, steps, found)


@settings(max_examples=60, deadline=None)
@given(texts)
def test_no_copying_drafter_beats_the_copy_bound(pairs):
    for name in ("sam", "pld"):
        drafter = methods.load(name, command.TextTarget())
        drafter.remember("question")
        drafter.enter("question", "q")
        steps = 0
        for prompt, output in pairs:
            steps += len(replay(drafter, Script(Request(prompt, len(output)), output)).sources)
        assert steps >= bounds(pairs, is_shared=True).steps


def test_match_lengths_count_earlier_texts():
    alone, after = match_lengths([([1, 2], [3, 1, 2, 3]), ([1, 2], [3, 1, 9])])
    assert alone.tolist() == [0, 1, 2, 3] and after.tolist() == [3, 4, 0]


# --- price, golden file, sweep --------------------------------------------------------------------
CURVE = {"model": "m", "device": "d", "nodes": [1, 3], "seconds": [1.0, 2.0]}
CURVE["contexts"] = {"100": [1.0, 2.0], "200": [2.0, 4.0]}


def test_price_is_the_sum_of_step_costs():
    costs = Costs(CostCurve.of(CURVE), "test", with_host=False)
    steps = Steps(Counter({0: 2, 2: 1, 4: 1}), Counter({1: 2, 3: 2}), context=4 * 100)
    # 1 + 1 + 2 + 3 (straight on behind the last two), in vanilla steps
    assert costs.of(steps) == pytest.approx(7)
    assert costs.of_ideal(steps) == pytest.approx(1 + 1 + 2 + 2)
    assert costs.of(replace(steps, context=4 * 150)) == pytest.approx(7)
    with_host = replace(costs, with_host=True)
    assert with_host.of(replace(steps, seconds=0.5)) == pytest.approx(7.5)


def test_built_in_costs_say_that_they_are_estimates():
    for name in built_in():
        costs = read_costs(name, with_host=True)
        assert "not measured" in costs.source and costs.curve.step(1, 1000) > 0


def test_golden_rates_add_up_to_the_acceptance_length(run_records, tmp_path):
    out = tmp_path / "golden.json"
    replayed(
        *(run_records / "vanilla.jsonl", tmp_path / "r"),
        *("--methods", "sam", "pia", "--export", str(out)),
    )
    data = json.loads(out.read_text())
    for entry in data["methods"].values():
        shares = entry["acceptance_rates"]
        assert 1 + sum(shares) == pytest.approx(entry["acceptance_length"])
        assert shares == sorted(shares, reverse=True) and max(shares) <= 1
        assert set(entry) >= {"scope", "nodes", "drafted", "interval"}
    assert rates(Steps(Counter({0: 2}), Counter({1: 1, 3: 1}))) == [0.5, 0.5]


def test_a_sweep_names_the_best_setting_and_what_it_was_chosen_on(run_records, tmp_path, capsys):
    flags = ["--methods", "sam", "pia", "--sweep", "sam_nodes=2,12", "pia_nodes=4", "--out"]
    words = [str(run_records / "vanilla.jsonl"), *flags, str(tmp_path), "--costs", "h100-8b"]
    assert command.main(words) == 0
    shown = capsys.readouterr().out
    assert "best by MAT: sam (sam_nodes 12)" in shown and "chosen on these very traces" in shown
    assert (tmp_path / "sweep.png").stat().st_size > 5000
    assert not list(tmp_path.glob("*.jsonl"))
    assert command.main([*words, "--hold-out", "0.4"]) == 0
    assert "judged on the held-out ones" in capsys.readouterr().out


def test_likeliest_tokens_pack_and_unpack():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 150_000, (50, 10)).astype(np.int32)
    logprobs = -rng.random((50, 10)).astype(np.float16)
    packed = Topk(KEPT, ids, logprobs).packed()
    again = Topk.unpacked(packed)
    assert np.array_equal(again.ids, ids) and np.array_equal(again.logprobs, logprobs)
    for broken in ("", "kept:10", "kept:10:x", "all:10:eJw=", packed[:-8], "kept:0:eJwDAAAAAAE="):
        with pytest.raises(UserError, match="damaged"):
            topk_of_steps(broken, "line 1", 5)
    with pytest.raises(UserError, match="--record-topk 12"):
        topk_of_steps(packed, "line 1", 12)


def test_the_report_shows_replays_beside_runs(run_records, tmp_path):
    from evaluation.report import __main__ as report

    replayed(run_records / "vanilla.jsonl", run_records / "replay", "--methods", "sam", "pia")

    argv = sys.argv
    sys.argv = ["report", str(run_records), "--out", str(tmp_path), "--costs", "h100-8b"]
    try:
        assert report.main() == 0
    finally:
        sys.argv = argv
    page = (tmp_path / "report.html").read_text()
    for words in ("Acceptance on recorded texts", "Replayed beside measured", "Bounds"):
        assert words in page
    assert "Replays: acceptance and its bounds" in page
    assert "replay of vanilla" in page and (CODE / "docs").exists()


DRAFTS = """
import sys, json
if sys.argv[1] == "plain":
    sys.modules["numba"] = None
import numpy as np
from evaluation.replaying.target import TextTarget
from model import methods
from model.contract import Request
from model.engine.replay import Replay, Script
from model.index.compiled import IS_COMPILED

rng = np.random.default_rng(0)
phrases = [rng.integers(0, 40, 12).tolist() for _ in range(8)]
texts = []
for _ in range(3):
    text = []
    for number in rng.integers(0, 8, 7):
        text += phrases[number][: rng.integers(4, 12)] + rng.integers(0, 40, 2).tolist()
    texts.append(text)
drafts = []
for name in sys.argv[2:]:
    method, _, options = name.partition(":")
    drafter = methods.load(method, TextTarget(), json.loads(options or "{}"))
    drafter.enter("question", "q")
    for text in texts:
        replaying = Replay(drafter, Script(Request(text[:5], len(text) - 5), text[5:]))
        while not replaying.finished:
            draft = replaying.propose()
            drafts.append([name, list(draft.tokens), list(draft.parents)])
            replaying.accept(draft)
        replaying.result()
print(json.dumps([IS_COMPILED, drafts]))
"""


def test_compiled_and_plain_indexes_draft_the_same():
    """Without Numba the same code runs as plain Python."""
    names = ["pld", "sam", 'sam:{"sam_match": "frequent"}', "pia", "suffix", "blend"]
    names.append('suffix:{"suffix_tree": true, "suffix_preset": "vllm"}')
    found = []
    for kind in ("compiled", "plain"):
        words = [sys.executable, "-c", DRAFTS, kind, *names]
        done = subprocess.run(words, cwd=CODE, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    assert [is_compiled for is_compiled, _ in found] == [True, False]
    assert found[0][1] == found[1][1] and len(found[0][1]) > 200
