"""Flags from option dataclasses: aliases, several methods at once, options of the same name."""

import dataclasses
import sys
from dataclasses import dataclass

import pytest

from evaluation.command import Parser
from evaluation.running.cli import parse
from evaluation.running.options import add_options, config_from, method_configs
from evaluation.verify import verify_parser
from model import methods
from model.contract import option
from model.errors import UserError
from tests.test_bad_input import stopped


@dataclass(frozen=True)
class First:
    depth: int = option(3, "levels", "--old-depth")
    wide: bool = option(False, "a switch")


@dataclass(frozen=True)
class Second:
    depth: int = option(5, "levels of another method")
    name: str = option("a", "a text")


def parsed(*flags):
    parser = Parser(allow_abbrev=False)
    add_options(parser, [First, Second])
    args = parser.parse_args(flags)
    return config_from(First, args), config_from(Second, args)


def test_two_methods_may_have_options_of_the_same_name():
    assert parsed() == (First(3), Second(5))
    assert parsed("--depth", "7") == (First(7), Second(7))
    assert parsed("--old-depth", "7") == (First(7), Second(5))
    assert parsed("--wide", "--name", "b") == (First(3, True), Second(5, "b"))
    assert parsed("--wide", "--no-wide") == (First(3, False), Second(5))
    with pytest.raises(UserError, match=r"argument --depth.*: invalid int value: 'x'"):
        parsed("--depth", "x")


def test_every_option_of_ours_begins_with_its_methods_name():
    for name in methods.names():
        config = methods.config_types(name)[0]
        outer = getattr(methods.parse(name).module, "COMPOSES", name)
        prefix = "eagle_" if name == "eagle3" else f"{outer}_"
        for field in dataclasses.fields(config):
            assert field.name.startswith(prefix)


def test_verify_takes_the_options_of_all_methods_at_once():
    """Version 0.1 ended in a traceback: sam and sam_eagle3 claim one published flag."""
    names = [name for name in methods.names() if name != "vanilla"]
    flags = ["--model-path", "mini", "--samd_n_predicts", "9", "--depth", "2"]
    args = verify_parser(names).parse_args(flags)
    assert method_configs("sam", args)[0].sam_nodes == 9
    composite, inner = method_configs("sam_eagle3", args)
    assert composite.sam_chain_nodes == 9 and inner.eagle_depth == 2
    assert method_configs("eagle3", args)[0].eagle_depth == 2


OLD_FLAGS = {
    "eagle3": {"--ea-model-path": "x", "--total-token": 9, "--depth": 2, "--top-k": 3},
    "lookahead": {"--level": 4, "--window": 5, "--guess": 6},
    "pia": {"--branch-length": 4, "--decoding-length": 5, "--output-weight": 0.5},
    "recycling": {"--output-id-topk": 4},
    "rest": {"--datastore-path": "x", "--num-draft": 4, "--max-token-span": 5},
    "sam": {"--samd_n_predicts": 9, "--static_sam_path": "x", "--static-sam-tokens": 4},
    "sam_eagle3": {"--samd_n_predicts": 9, "--samd_len_threshold": 3, "--depth": 2},
    "sps": {"--drafter-path": "x", "--draft-tokens": 4, "--draft-confidence": 0.5},
}


@pytest.mark.parametrize("method", OLD_FLAGS)
def test_old_flags_still_work(method):
    flags = []
    for flag, value in OLD_FLAGS[method].items():
        flags += [flag, str(value)]
    spec = parse(["--model-path", "mini", "--method", method, *flags])
    values = set()
    for config in spec.method.configs:
        values |= set(dataclasses.astuple(config))
    assert set(OLD_FLAGS[method].values()) <= values


def test_a_published_flag_without_effect_says_so_once(capsys):
    flags = ["--model-path", "mini", "--load-in-8bit", "--tree-choices", "x", "--load-in-8bit"]
    parse(flags, "vanilla")
    said = capsys.readouterr().err
    assert said == (
        "note: --load-in-8bit, --tree-choices have no effect: accepted for old command lines\n"
    )
    parse(["--model-path", "mini"], "vanilla")
    assert capsys.readouterr().err == ""


def test_the_console_command(monkeypatch, capsys):
    from evaluation import spectts

    for name, command in spectts.COMMANDS.items():
        monkeypatch.setattr(sys, "argv", ["spectts", name, "--help"])
        with pytest.raises(SystemExit) as stop:
            spectts.main()
        assert stop.value.code == 0, command
    monkeypatch.setattr(sys, "argv", ["spectts", "--version"])
    assert spectts.main() == 0 and "spectts-bench 0.4.0" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["spectts", "run", "--version"])
    with pytest.raises(SystemExit) as stop:
        spectts.main()
    assert stop.value.code == 0 and "spectts-bench 0.4.0" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["spectts", "fly"])
    assert "no command 'fly'" in stopped(spectts.main, capsys)
