"""The family's recipe: disjoint splits, right answers, seeded streams; the stages run end to end on
a tiny scale.
"""

import json
import re
import subprocess
from pathlib import Path
from random import Random

import pytest
import torch

from evaluation.tasks.boxed import last_boxed
from model.eagle3.checkpoint import save_head
from tests.test_bad_input import stopped
from training import __main__ as recipe
from training import eagle3, lm, problems, texts
from training.corpus import Text
from training.datastore import main as datastore_main
from training.trace import document

MINI = Path(__file__).resolve().parents[1] / "data" / "mini"


def drawn(count: int, split: str = "train"):
    return [problems.draw(Random(f"t{i}"), split)[1] for i in range(count)]


@pytest.mark.slow
def test_no_test_question_occurs_in_training_documents():
    asked = {
        json.loads(line)["turns"][0] for line in (MINI / "questions.jsonl").read_text().splitlines()
    }
    assert len(asked) == 80
    for i in range(3000):
        text = document(1, i, "train").user
        assert text not in asked and not any(text.startswith(q) for q in asked)
    assert {problems.split_of(p) for p in drawn(200, "test")} == {"test"}


def test_documents_are_a_function_of_seed_and_index():
    assert document(1, 7, "train") == document(1, 7, "train") != document(2, 7, "train")


def evaluated(calc: str) -> bool:
    """Every equation of a worked calculation holds, as Python sees it."""
    for part in re.split(r" because |, so ", calc):
        sides = [s for s in part.split(" = ") if re.fullmatch(r"[\d\s+\-*/()]+", s)]
        if len({round(eval(s), 6) for s in sides}) > 1:
            return False
    return True


def test_worked_arithmetic_is_right():
    for problem in drawn(600):
        for step in (*problem.steps, *problem.check):
            assert evaluated(step.calc), step


def test_documents_end_in_the_boxed_answer():
    for problem_text in (document(3, i, "validation").assistant for i in range(200)):
        thinking, _, final = problem_text.partition("</think>")
        assert thinking.startswith("<think>\n") and last_boxed(final)


def test_recorded_hashes_are_those_of_the_files():
    made = json.loads((MINI / "made.json").read_text())["sha256"]
    found = recipe.hashes(MINI)  # what runs wrote beside them is not of the family
    assert made == {name: found.get(name) for name in made}
    tracked = subprocess.run(["git", "ls-files", "."], cwd=MINI, capture_output=True, text=True)
    assert set(tracked.stdout.split()) - {"made.json"} <= set(made)
    assert sum((MINI / name).stat().st_size for name in made) < 40e6


def test_rate_warms_up_stays_and_decays():
    factors = [lm.rate_factor(s, 100, 40, 10) for s in range(100)]
    assert (
        factors[0] == 0.1
        and factors[30] == 1
        and factors[99] == pytest.approx(1 / 40)
        and max(factors) == 1
    )


@pytest.mark.slow
def test_a_stopped_training_goes_on_where_it_was(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MINI / "target")
    small = lm.LMRecipe(
        1, 32, 32, 1, 1, steps=4, decay_steps=2, batch_tokens=512, warmup=1, save_every=2
    )
    device = torch.device("cpu")
    whole = lm.train_lm(small, tokenizer, tmp_path / "a", device)
    stop = lm.save_state

    class Stopped(Exception): ...

    def save_then_stop(*arguments):
        stop(*arguments)
        raise Stopped

    lm.save_state = save_then_stop
    try:
        with pytest.raises(Stopped):
            lm.train_lm(small, tokenizer, tmp_path / "b", device)
    finally:
        lm.save_state = stop
    again = lm.train_lm(small, tokenizer, tmp_path / "b", device)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values())
    )


@pytest.mark.slow
def test_every_stage_at_a_tiny_scale(tmp_path, monkeypatch):
    """From nothing to a family that loads and runs: what `python -m training` does, a thousand
    times smaller.
    """
    from model import checkpoint, methods
    from model.contract import Request
    from model.engine.decode import generate

    small = dict(
        hidden=32,
        feed_forward=32,
        heads=1,
        kv_heads=1,
        steps=2,
        decay_steps=1,
        batch_tokens=512,
        warmup=1,
    )
    monkeypatch.setattr(recipe, "TARGET", lm.LMRecipe(layers=7, **small))
    monkeypatch.setattr(recipe, "DRAFT", lm.LMRecipe(layers=1, **{**small, "batch_tokens": 4096}))
    monkeypatch.setattr(recipe, "TEXTS", 6)
    monkeypatch.setattr(recipe, "TEXT_TOKENS", 12)
    monkeypatch.setattr(recipe, "HEAD_TOKENS", 300)
    monkeypatch.setattr(
        recipe, "train_tokenizer", lambda folder, seed: train(folder, seed, documents=400)
    )
    from training.tokenizer import train_tokenizer as train

    family = recipe.Family(tmp_path / "out", tmp_path / "work", torch.device("cpu"))
    (tmp_path / "out").mkdir()
    for stage in recipe.Family.stages[:-1]:
        getattr(family, stage)()
    loaded = checkpoint.load(str(tmp_path / "out" / "target"))
    assert loaded.family.name == "mini"
    out = tmp_path / "out"
    options = {
        "sps": {"sps_model": str(out / "draft")},
        "rest": {"rest_datastore": str(out / "rest.datastore")},
        "eagle3": {"eagle_head": str(out / "eagle3")},
    }
    prompt = loaded.tokenizer.encode("What is 1 + 1?")
    expected = generate(
        loaded.model, methods.load("vanilla", loaded.model), Request(prompt, 20)
    ).output_ids
    for method, chosen in options.items():
        assert (
            generate(
                loaded.model, methods.load(method, loaded.model, chosen), Request(prompt, 20)
            ).output_ids
            == expected
        )
    assert texts.read(tmp_path / "work" / "greedy.jsonl")


def test_a_datastore_of_ones_own_text(tmp_path, monkeypatch, capsys):
    import sys

    from model.index.suffix_array import open_file

    text = tmp_path / "t.txt"
    text.write_text("one two three\nfour five\n")
    monkeypatch.setattr(
        sys,
        "argv",
        ["datastore", "--model-path", "mini", "--text", str(text), "--out", str(tmp_path / "s")],
    )
    assert datastore_main() == 0
    assert open_file(tmp_path / "s").header["documents"] == 2
    monkeypatch.setattr(
        sys,
        "argv",
        ["datastore", "--model-path", "mini", "--text", "/nowhere", "--out", str(tmp_path / "s")],
    )
    assert "cannot read /nowhere" in stopped(datastore_main, capsys)


OTHER_TARGETS = {
    "phi3": {},
    "glm4": {},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4},
    "cohere": {},
    "phi": {},
    "starcoder2": {},
    "gpt_neox": {"num_key_value_heads": None},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 64, "num_key_value_heads": None},
}


@pytest.mark.parametrize("kind", OTHER_TARGETS)
def test_a_head_for_other_targets_is_trained_and_drafts(kind, tmp_path):
    """Fused or no gate projections, experts, other norms: a head all the same, and lossless."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from model import methods
    from model.contract import Request
    from model.engine.agreement import build_model
    from model.engine.decode import generate

    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **OTHER_TARGETS[kind],
    }
    given = {name: size for name, size in sizes.items() if size is not None}
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given)).eval()
    texts = [Text([3, 4, 5], [6 + (i + j) % 9 for j in range(40)]) for i in range(4)]
    recipe = eagle3.HeadRecipe(
        feature_layers=(2, 3, 4), draft_vocab=32, tokens=200, rollout=2, autocast=False
    )
    head = eagle3.train_head(recipe, network.requires_grad_(False), texts)
    save_head(head, tmp_path)
    model = build_model(network, "", "auto")
    prompt = [3, 4, 5, 6, 7, 8, 9, 10]
    vanilla = generate(model, methods.load("vanilla", model), Request(prompt, 24))
    options = {"eagle_head": str(tmp_path), "eagle_nodes": 6, "eagle_depth": 2, "eagle_top_k": 2}
    drafted = generate(model, methods.load("eagle3", model, options), Request(prompt, 24))
    assert drafted.output_ids == vanilla.output_ids


def test_training_a_head_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"What is {i} + 2?\n" for i in range(3)))
    flags = ["--model-path", "mini", "--prompts", str(prompts), "--out", str(tmp_path / "head")]
    small = ["--tokens", "60", "--max-new-tokens", "30", "--draft-vocab", "64", "--threads", "1"]

    def run(*more: str) -> str:
        monkeypatch.setattr("sys.argv", ["eagle3", *flags, *small, *more])
        assert eagle3.main() == 0
        return capsys.readouterr().out

    first = run()
    texts_file = tmp_path / "head" / "texts.jsonl"
    written = texts_file.read_bytes()
    assert "step 1/" in first and (tmp_path / "head" / "model.safetensors").exists()
    assert "were written before" in run() and texts_file.read_bytes() == written
    # a kill in the middle of a line: the group is written again, and is the same
    texts_file.write_bytes(written[:-20])
    run()
    assert texts_file.read_bytes() == written
    monkeypatch.setattr("sys.argv", ["eagle3", *flags, *small, "--seed", "2"])
    assert "begun with other settings (seed: 1 then, 2 now)" in stopped(eagle3.main, capsys)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--tokens", "0"], "--tokens must be at least 1"),
        (["--learning-rate", "nan"], "invalid number value: 'nan'"),
        (["--learning-rate", "0"], "--learning-rate must be above 0"),
        (["--rollout", "0"], "--rollout must be at least 1"),
        (["--device", "gpu"], "--device is cpu, cuda or cuda:N"),
        (["--out", "/proc/nowhere"], "cannot use --out"),
        (["--prompts", "/nowhere"], "cannot read --prompts"),
        (["--chat-template", "/nowhere"], "cannot read --chat-template"),
    ],
)
def test_training_a_head_checks_its_flags_first(flags, said, tmp_path, monkeypatch, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is 1 + 2?\n")
    every = ["--model-path", "mini", "--prompts", str(prompts), "--out", str(tmp_path / "head")]
    monkeypatch.setattr("sys.argv", ["eagle3", *every, *flags])
    assert said in stopped(eagle3.main, capsys)
    assert not (tmp_path / "head" / "texts.jsonl").exists()
