"""Which attention runs for how many rows: the table, FlexAttention, an engine that uses them."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import methods
from model.contract import Request
from model.engine.decode import generate
from model.engine.device import attention_table, flex
from model.engine.device.attention_table import AttentionTable, Kind
from model.engine.device.launch import CANDIDATES, DEFAULT, Launch
from model.engine.device.packed_attention import packed_attention
from model.engine.model import Model
from model.errors import UserError
from tests.conftest import PROMPT, qwen3

sys.path.append(str(Path(__file__).parents[1] / "bench"))
import attention as bench

CODE = Path(__file__).parents[1]
FLEX = Launch("flex")
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture
def kind(monkeypatch, tmp_path) -> Kind:
    """The mini target's, on this CPU; tables lie in a folder of the test's own."""
    monkeypatch.setattr(attention_table, "FOLDER", tmp_path)
    shape = Model(qwen3(layers=2)).shape
    return Kind("cpu", shape.heads, shape.kv_heads, shape.head_dim, torch.float32)


def test_a_launch_survives_its_packing():
    for launch in CANDIDATES:
        assert Launch.unpacked(launch.packed()) == launch
    assert str(Launch(block=32, warps=8)) == "split_kv block=32 warps=8" and str(FLEX) == "flex"


@pytest.mark.parametrize(
    "wrong", ({"kernel": "magic"}, {"tile": 48}, {"block": 8}, {"warps": 0}, {"programs": 0})
)
def test_a_launch_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values())).__str__()):
        Launch(**wrong)


def test_rows_are_launched_as_the_next_more_that_were_measured():
    table = AttentionTable("card", {1: FLEX, 8: DEFAULT, 64: Launch(warps=8)})
    assert [table.of(rows) for rows in (1, 2, 8, 9, 64, 384)] == [
        FLEX,
        DEFAULT,
        DEFAULT,
        Launch(warps=8),
        Launch(warps=8),
        Launch(warps=8),
    ]
    assert str(table) == "1 rows: flex, 64 rows: split_kv warps=8"
    assert AttentionTable().of(5) == DEFAULT and not str(AttentionTable())
    assert table.without(9).of(9) == DEFAULT and table.without(9).of(64) == Launch(warps=8)
    several = table.without_flex()
    assert several.of(1) == DEFAULT and several.of(64) == Launch(warps=8)
    assert AttentionTable("card", {64: FLEX}).of(65) == DEFAULT


def test_a_table_survives_its_file(kind):
    launches = {1: FLEX, 16: Launch(block=128, warps=8, programs=1), 64: DEFAULT}
    path = attention_table.save(kind, launches, {"torch": "2.13"})
    assert path.name == f"cpu_{kind.heads}x{kind.kv_heads}x{kind.head_dim}_float32.json"
    assert attention_table.load(kind) == AttentionTable(path.stem, launches)
    assert attention_table.load(Kind("NVIDIA H200", 32, 8, 128, torch.bfloat16)).of(9) == DEFAULT


@pytest.mark.parametrize(
    "text",
    ("{", "[]", '{"rows": {"x": {}}}', '{"rows": {"1": {"tiles": 3}}}', '{"rows": {"1": [3]}}'),
)
def test_a_damaged_table_is_one_line(text, kind):
    kind.path.write_text(text)
    with pytest.raises(UserError, match=r"not a table of attention .* --save"):
        Model(qwen3(layers=2), engine="cuda_graph").reserve(100)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    padding=st.integers(0, 9),
    start=st.sampled_from([0, 1, 127, 128, 200, 256]),
    heads=st.sampled_from([(4, 2), (2, 2), (4, 1)]),
    seed=st.integers(0, 99),
)
def test_flex_attention_is_the_operators(rows, padding, start, heads, seed):
    """Random masks, prefixes that end within a block and at its end, rows that are padding."""
    torch.manual_seed(seed)
    (query_heads, kv_heads), dim, positions, total = heads, 16, 320, rows + padding
    query = torch.randn(total, query_heads, dim)
    key, value = torch.randn(2, total, kv_heads, dim)
    cache = torch.randn(2, 1, positions, kv_heads, dim)
    mask = torch.zeros(total, 128, dtype=torch.bool)
    mask[:rows, :rows] = (torch.rand(rows, rows) < 0.5).tril() | torch.eye(rows, dtype=torch.bool)
    layout = (torch.tensor([start, 0]), torch.tensor([0, 0]), torch.tensor([0, rows, rows]))
    results = []
    for launch in (DEFAULT, FLEX):
        written = cache.clone()
        out = packed_attention(query, key, value, written, *layout, mask, 0.3, launch.packed())
        results.append((out[:rows], written[:, :, :-1]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.equal(results[0][1], results[1][1])


@settings(max_examples=60)
@given(
    start=st.integers(0, 400),
    rows=st.integers(1, 40),
    padding=st.integers(0, 99),
    seed=st.integers(0, 99),
)
def test_flex_attentions_blocks_cover_what_is_attended(start, rows, padding, seed):
    """By brute force: a compiled kernel looks at no other block, and masks no whole one."""
    torch.manual_seed(seed)
    positions, total = 512, rows + padding
    mask = torch.zeros(total, 128, dtype=torch.bool)
    mask[:rows, :rows] = (torch.rand(rows, rows) < 0.5).tril() | torch.eye(rows, dtype=torch.bool)
    found = flex.blocks(torch.tensor([start]), torch.tensor([rows]), mask, positions)
    attended = torch.zeros(total, positions, dtype=torch.bool)
    attended[:, :start] = True
    attended[:rows, start : start + rows] = mask[:rows, :rows]
    row, position = torch.arange(total)[:, None], torch.arange(positions)[None, :]
    assert torch.equal(found.mask_mod(0, 0, row, position), attended)
    by_block = attended.view(total, -1, flex.BLOCK)
    for of_rows in range(-(-total // flex.BLOCK)):
        masked = found.kv_indices[0, 0, of_rows, : found.kv_num_blocks[0, 0, of_rows]].tolist()
        count = found.full_kv_num_blocks[0, 0, of_rows]
        whole = found.full_kv_indices[0, 0, of_rows, :count].tolist()
        assert len({*masked, *whole}) == len(masked) + len(whole)
        assert by_block[:, whole].all()
        others = [i for i in range(by_block.shape[1]) if i not in {*masked, *whole}]
        assert not by_block[:, others].any()


def drafted(model: Model) -> list[int]:
    request = Request(PROMPT, 20, 0.7)
    return generate(model, methods.load("recycling", model), request).output_ids


def test_an_engine_attends_as_the_table_says(kind, monkeypatch):
    expected = drafted(Model(qwen3(layers=2)))
    attention_table.save(kind, {1: DEFAULT, 64: FLEX}, {})
    rows, real = [], flex.attend_packed

    def counted(query, *more):
        rows.append(len(query))
        return real(query, *more)

    monkeypatch.setattr(flex, "attend_packed", counted)
    model = Model(qwen3(layers=2), engine="cuda_graph")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="attention|engine")
        assert drafted(model) == expected
    assert rows and min(rows) > 1
    assert model.engine == "cuda_graph" and str(model.backend.attention) == "64 rows: flex"


def test_several_sequences_are_not_served_by_flex(kind):
    attention_table.save(kind, {1: FLEX, 64: Launch(warps=8)}, {})
    model = Model(qwen3(layers=2), engine="cuda_graph")
    for slots, first in ((1, FLEX), (2, DEFAULT)):
        model.reserve(100, slots)
        assert model.backend.attention.of(1) == first
        assert model.backend.attention.of(9) == Launch(warps=8)


@pytest.mark.parametrize("fault", ("raises", "differs"))
def test_attention_that_does_not_work_is_left_for_the_default(fault, kind, monkeypatch):
    """A bucket at a time; the engine stays."""
    expected = drafted(Model(qwen3(layers=2)))
    attention_table.save(kind, {64: FLEX}, {})

    def broken(query, *more):
        if fault == "raises":
            raise RuntimeError("no such kernel")
        return torch.ones_like(query)

    monkeypatch.setattr(flex, "attend_packed", broken)
    model = Model(qwen3(layers=2), engine="cuda_graph")
    said = "no such kernel" if fault == "raises" else "differ by"
    with pytest.warns(UserWarning, match=f"rows by flex, as cpu_.*{said}.*going on with split_kv"):
        assert drafted(model) == expected
    assert model.engine == "cuda_graph"


@pytest.mark.parametrize(
    ("microseconds", "fastest"),
    (
        ({DEFAULT: (10, 40), FLEX: (9.8, 39.2)}, DEFAULT),  # 2 % are not enough
        ({DEFAULT: (10, 40), FLEX: (12, 30)}, DEFAULT),  # nor is half the contexts
        ({DEFAULT: (10, 40), FLEX: (8, 44), Launch(stages=3): (9, 37)}, Launch(stages=3)),
        ({DEFAULT: (10, 40), FLEX: (5, None)}, DEFAULT),  # it must serve them all
        ({DEFAULT: (10, 40), FLEX: (5, 20)}, FLEX),
    ),
)
def test_the_default_is_left_for_a_clear_winner(microseconds, fastest):
    contexts = []
    for context in range(2):
        times = {str(launch): bench.Timed(None) for launch in CANDIDATES}
        for launch, of_contexts in microseconds.items():
            times[str(launch)] = bench.Timed(of_contexts[context])
        contexts.append(times)
    assert bench.fastest_launch(contexts) == fastest


@pytest.mark.slow
def test_the_bench_writes_what_it_found_fastest(tmp_path):
    command = [sys.executable, "bench/attention.py", "--device", "cpu", "--save"]
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "a.json")],
        cwd=CODE,
        env={**os.environ, "SPECTTS_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    (table,) = (tmp_path / "attention").iterdir()
    rows = json.loads(table.read_text())["rows"]
    assert set(rows) == {"1", "8", "16", "32", "64"} and f"written: {table}" in run.stdout
    measured = json.loads((tmp_path / "a.json").read_text())["rows"]
    for of_case in measured:
        times = of_case["microseconds"]
        assert times["split_kv"] and times["flex"] and times["split_kv warps=8 stages=3"] is None
    assert "which only a GPU runs: split_kv stages=3, " in run.stdout
