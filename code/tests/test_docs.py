"""Every command in README and the docs is run: as it stands where it can be, small where it is
long, as a dry run where it needs a GPU, a download or other machines.

A command that no rule here knows fails the test, so a new one gets a rule.
"""

import contextlib
import functools
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from evaluation import spectts
from evaluation.running.cli import parse
from evaluation.running.several import parse_several
from evaluation.running.spec import RunSpec

CODE = Path(__file__).resolve().parents[1]
ROOT = CODE.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((CODE / "docs").glob("*.md"))]
STARTS = (
    "python",
    "bash",
    "spectts",
    "pip",
    "ray",
    "hf",
    "pre-commit",
    "EXTRAS",
    "BESIDE",
    "METHODS",
)

pytestmark = pytest.mark.slow


def commands_of(page: Path) -> list[str]:
    """Fenced bash blocks line by line, and what stands between backticks in the text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines: list[str] = []
    for block in blocks:
        lines += block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for span in re.findall(r"`([^`]+)`", prose):
        words = span.split()
        if len(words) > 1 and words[0].split("=")[0] in STARTS and "..." not in words:
            lines.append(" ".join(words))
    commands = []
    for line in lines:
        for command in re.split(r"\s#\s|\s+#\s*$", line)[0].split(" && "):
            if command.strip():
                commands.append(" ".join(command.split()))
    return commands


ALL = sorted({command for page in PAGES for command in commands_of(page)})


@dataclass
class Shop:
    """Where commands are run: a folder of records made by the first command of README."""

    folder: Path
    said: dict[str, str] = field(default_factory=dict)
    """What was run already: several pages name one command, many its --help."""

    @property
    def records(self) -> Path:
        return self.folder / "mini"

    def run(self, command: str, cwd: Path = CODE, **environment: str) -> str:
        """Standard output; fails with what the command said where it does not end with 0."""
        key = repr((command, cwd, sorted(environment.items())))
        if key in self.said:
            return self.said[key]
        if is_ours(command) and cwd == CODE and not environment:
            self.said[key] = said_by(tuple(shlex.split(command)))
            return self.said[key]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=cwd,
            env={**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": path, **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        self.said[key] = done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    """Made by the first process that wants it; others work on a copy."""
    made = Shop(tmp_path_factory.mktemp("docs"))
    is_shared = "PYTEST_XDIST_WORKER" in os.environ
    above = tmp_path_factory.getbasetemp().parent if is_shared else made.folder
    first = Shop(above / "first-shop")
    with FileLock(above / "first-shop.lock"):
        if not first.records.exists():
            small(first, "bash code/scripts/mini.sh")
    shutil.copytree(first.records, made.records)
    return made


def small(shop: Shop, command: str) -> None:
    """mini.sh with as little work as shows that it runs."""
    knobs = {"LIMIT": "1", "METHODS": "vanilla sam", "MAX_NEW_TOKENS": "40"}
    if command == "bash code/scripts/mini.sh" and shop.records.exists():
        return  # the shop was made by it
    left = re.sub(r'(LIMIT|MAX_NEW_TOKENS|OUT|METHODS|PARALLEL)=("[^"]*"|\S*) ', "", command)
    name = "other" if "PARADIGMS=" in command else "mini"
    if "PARALLEL=" in command:
        name, knobs["PARALLEL"] = "together", "1 2"
    out = str(shop.folder / name)
    said = shop.run(left, ROOT, OUT=out, EXTRAS="test,ray", **knobs)
    assert "token for token" in said and "report.html" in said


def on_records(shop: Shop, command: str) -> None:
    """On the records of mini.sh in place of data/mini."""
    command = command.replace("--out sam.jsonl", f"--out {shop.folder}/sam.jsonl")
    command = command.replace("data/figures", f"{shop.folder}/figures")
    shop.run(command.replace("data/mini", str(shop.records)))


def several(shop: Shop, command: str) -> None:
    """A page over the records and a copy of them, or over what two reports exported."""
    copy = shop.folder / "copy"
    shutil.copytree(shop.records, copy, dirs_exist_ok=True)
    folders = [shop.records, copy]
    if ".json" in command:
        for folder in folders:
            shop.run(f"python -m evaluation.report {folder}")
        folders = [folder / "report" / "entries.json" for folder in folders]
    out = shop.folder / "several"
    shop.run(f"python -m evaluation.report {folders[0]} {folders[1]} --out {out}")
    assert (out / "report.html").read_text().count('class="answer"') >= 2


def ranked(shop: Shop, command: str) -> None:
    """On records as of a machine with nothing else to do; here the other tests run beside."""
    alone = shop.folder / "alone"
    shutil.copytree(shop.records, alone, dirs_exist_ok=True)
    for file in alone.rglob("*.jsonl"):
        file.write_text(file.read_text().replace('"shared": true', '"shared": false'))
    shop.run(command.replace("data/mini", str(alone)))


def verify(shop: Shop, command: str) -> None:
    few = "--questions 1 --max-new-tokens 10 --temperature 0.6 --method pld recycling blend"
    said = shop.run(f"{command} {few}")
    assert "all texts are vanilla's" in said


def published(shop: Shop, command: str) -> None:
    """A dry run; every launcher it prints has flags that are understood."""
    environment, words = {}, shlex.split(command)
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        environment[name] = value
    said = shop.run(shlex.join(words), DRY_RUN="1", **{**environment, "EXTRAS": "test,ray"})
    launched = [line for line in said.splitlines() if "evaluation.inference" in line]
    runs = [run for line in launched for run in launcher(shop, line)]
    assert len(runs) >= 24


def launcher(shop: Shop, command: str) -> list[RunSpec]:
    """Its flags make a specification: what a run begins with, before anything is loaded."""
    words = shlex.split(command)
    flags = words[words.index("evaluation.inference") + 1 :]
    return parse_several(flags) if "--methods" in flags else [parse(flags)]


def small_model(shop: Shop, command: str) -> None:
    """small.sh on the mini target and a question file, as with a model of the user's."""
    words = [word for word in command.split() if "=" not in word]
    questions = shop.folder / "own.jsonl"
    questions.write_text('{"question_id": 1, "turns": ["What is 2 + 3?"], "answer": "5"}\n')
    knobs = {"LIMIT": "1", "METHODS": "vanilla pld", "MAX_NEW_TOKENS": "10", "DTYPES": "float32"}
    knobs |= {"PARADIGMS": "multi_round", "TEMPERATURES": "0.0", "MODEL_PATH": "mini"}
    out = str(shop.folder / "small")
    said = shop.run(
        " ".join(words), OUT=out, QUESTION_FILE=str(questions), EXTRAS="test,ray", **knobs
    )
    assert "token for token" in said and "report.html" in said


def replay(shop: Shop, command: str) -> None:
    """A few words as traces, the mini family's tokenizer."""
    traces = shop.folder / "traces.jsonl"
    lines = [f'{{"prompt": "1 + {n}?", "text": "1 + {n}, so 1 + {n}"}}\n' for n in range(4)]
    traces.write_text("".join(lines))
    command = command.replace("TRACES.jsonl", str(traces)).replace("FOLDER", "data/mini/target")
    command = command.replace("golden.json", str(shop.folder / "golden.json"))
    said = shop.run(f"{command} --out {shop.folder}/replayed")
    assert "MAT" in said


def fit_tree(shop: Shop, command: str) -> None:
    """To a short run's records."""
    records, tree = shop.folder / "fit.jsonl", shop.folder / "tree.json"
    few = "--paradigm best_of_n --samples 2 --temperature 0.6 --record-topk 10 --question-end 1"
    run = "python -m evaluation.inference --method vanilla --model-path mini"
    shop.run(f"{run} {few} --max-new-tokens 40 --answer-file {records}")
    said = shop.run(command.replace("RECORDS.jsonl", str(records)).replace("tree.json", str(tree)))
    assert "nodes" in said and tree.exists()


def replay_records(shop: Shop, command: str) -> None:
    """The records of mini.sh in place of data/mini, and a folder of their own for the replay."""
    shop.run(command.replace("data/mini", str(shop.records)))
    shutil.rmtree(shop.records / "replay", ignore_errors=True)


def workers(shop: Shop, command: str) -> None:
    few = "--question-end 1 --max-new-tokens 8 --warmup 0"
    shop.run(f"{command} {few} --answer-file {shop.folder}/workers.jsonl")


def flags_exist(shop: Shop, command: str) -> None:
    """Long or for other machines: every flag it names is one that --help names."""
    words = shlex.split(command)
    flags = [word for word in words if word.startswith("--")]
    end = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    program = tuple(word for word in words[:end] if not word.isupper())
    ours = program[0] == "python"
    said = help_of(program) if ours else shop.run(shlex.join([*program, "--help"]))
    assert not [flag for flag in flags if flag not in said]


@functools.cache
def help_of(program: tuple[str, ...]) -> str:
    """What a Python program says of itself."""
    return said_by((*program, "--help"))


def is_ours(command: str) -> bool:
    """One Python program of ours, in one process."""
    is_python = command.startswith(("python -m ", "python evaluation/", "python bench/"))
    return is_python and "--workers" not in command


def said_by(words: tuple[str, ...]) -> str:
    """Standard output of a Python program, run in this process: to import PyTorch and transformers
    anew for each of them takes seconds.
    """
    is_module = words[1] == "-m"
    program, *flags = words[2:] if is_module else words[1:]
    said, threads = io.StringIO(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "path", [*sys.path])
        patch.chdir(CODE)
        patch.setattr(sys, "argv", [program, *flags])
        run = runpy.run_module if is_module else runpy.run_path
        with pytest.raises(SystemExit) as stop:
            run(program, run_name="__main__")
    torch.set_num_threads(threads)
    assert not stop.value.code, said.getvalue()[-1000:]
    return said.getvalue()


def checks(shop: Shop, command: str) -> None:
    """The test command itself, over one file's names."""
    flags = "" if command.endswith(".sh") else command.split(".sh", 1)[1]
    script = "bash code/scripts/test.sh"
    shop.run(f"{script} {flags} --collect-only -q tests/test_structure.py", ROOT, EXTRAS="test,ray")


def extras_exist(shop: Shop, command: str) -> None:
    project = (CODE / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\[([\w,]+)\]", command)[0].split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def spectts_commands(shop: Shop, command: str) -> None:
    assert command.split()[1] in spectts.COMMANDS


def spectts_flags(shop: Shop, command: str) -> None:
    """A command that asks a server, or is one: every flag it names is there."""
    name, *words = shlex.split(command)[1:]
    said = help_of(("python", "-m", spectts.COMMANDS[name].module))
    assert not [word for word in words if word.startswith("--") and word not in said]


def served_library(shop: Shop, command: str) -> None:
    """In vLLM's environment; here its flags."""
    spectts_flags(shop, "spectts " + command.split("-m evaluation.")[1])


def engine_scripts(shop: Shop, command: str) -> None:
    """A dry run: a server for every method, and what asks it."""
    environment, words = {"DRY_RUN": "1", "EXTRAS": "test,ray", "METHODS": "vanilla ngram sam"}, []
    for word in shlex.split(command):
        name, is_setting, value = word.partition("=")
        if is_setting and not words:
            environment[name] = value
        else:
            words.append(word.replace("code/scripts", "scripts"))
    said = shop.run(shlex.join(words), OUT=str(shop.folder / "vllm"), **environment)
    asked = [line for line in said.splitlines() if "evaluation.engine" in line]
    servers = said.count("vllm.entrypoints.openai.api_server")
    assert len(asked) == servers == len(environment["METHODS"].split())
    for line in asked:
        served_library(shop, line)


def pre_commit(shop: Shop, command: str) -> None:
    shop.run("pre-commit validate-config", ROOT)


def fuzz(shop: Shop, command: str) -> None:
    shop.run("python bench/fuzz.py --steps 200")


def same_runs(shop: Shop, command: str) -> None:
    said = shop.run(f"python bench/same_runs.py {shop.records} {shop.records}")
    assert ", 0 differ" in said


def nothing(shop: Shop, command: str) -> None:
    """Changes a folder or an environment, and nothing of ours."""


RULES: list[tuple[str, Callable[[Shop, str], object]]] = [
    (r"^(?:\w+=.*)?bash code/scripts/mini\.sh", small),
    (r"bash code/scripts/test\.sh", checks),
    (r"^(?:\w+=.*)?bash scripts/(qwen3|deepseek)\.sh", published),
    (r"^(?:\w+=.*)?bash scripts/small\.sh", small_model),
    (r"^python -m evaluation\.replay data/mini", replay_records),
    (r"^python -m evaluation\.replay TRACES\.jsonl", replay),
    (r"^python -m evaluation\.leaderboard data/mini", ranked),
    (r"^python -m evaluation\.watch data/mini", flags_exist),
    (r"^python -m evaluation\.report (data/mini /tmp|H100)", several),
    (r"^python (evaluation/speed\.py|-m evaluation\.\w+( export)?) data/mini", on_records),
    (r"^python -m evaluation\.fit_tree", fit_tree),
    (r"^python -m evaluation\.calibrate .*data/mini", on_records),
    (r"^python -m evaluation\.calibrate", flags_exist),
    (r"^python -m evaluation\.(replay|report)$", flags_exist),
    (r"^python -m evaluation\.verify --model-path mini$", verify),
    (r"^python -m evaluation\.verify", flags_exist),
    (r"^python -m evaluation\.inference .*--model-path mini --workers 2", workers),
    (r"^python -m evaluation\.inference ", launcher),
    (r"^python -m evaluation\.estimate", flags_exist),
    (r"^python -m training(\.\w+)?", flags_exist),
    (r"^python bench/fuzz\.py", fuzz),
    (r"^python bench/same_runs\.py BEFORE AFTER", same_runs),
    (r"^python bench/\w+\.py", flags_exist),
    (r"^ray start", flags_exist),
    (r"^pip install -e \"?code\[", extras_exist),
    (r"^spectts \w+$", spectts_commands),
    (r"^spectts (engine|audit|serve) --", spectts_flags),
    (r"^PYTHONPATH=code python -m evaluation\.engine", served_library),
    (r"^(?:\w+=.*)?bash (code/)?scripts/engines/vllm\.sh", engine_scripts),
    (r"^pre-commit ", pre_commit),
    (r"^(cd code|python3 -m venv \.venv|\. \.venv/bin/activate|hf auth login)$", nothing),
]


@pytest.mark.parametrize("command", ALL)
def test_the_command_runs(command, shop):
    for pattern, rule in RULES:
        if re.search(pattern, command):
            rule(shop, command)
            return
    pytest.fail(f"no rule says how to run: {command}")


def test_commands_were_found():
    assert len(ALL) > 30


@pytest.mark.parametrize("kind", ("drafters/echo", "tasks/sums", "paradigms/second_opinion"))
def test_readmes_examples_work_when_dropped_in(kind, tmp_path):
    """A copy of the packages, the example's file in it, and a run that uses it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    path = re.search(rf"`code/(\w+/{kind}\.py)`", readme).group(1)
    after = readme[readme.index(f"`code/{path}`") :]
    source = re.search(r"```python\n(.*?)```", after, re.DOTALL).group(1)
    for package in ("model", "evaluation"):
        shutil.copytree(CODE / package, tmp_path / package)
    (tmp_path / path).write_text(source)
    name = Path(path).stem
    use = {"echo": ["--method", "echo", "--echo-tokens", "2"], "sums": ["--bench-name", "sums"]}
    flags = use.get(name, ["--paradigm", name])
    method = [] if "--method" in flags else ["--method", "pld"]
    command = [
        sys.executable,
        "-m",
        "evaluation.inference",
        "--model-path",
        "mini",
        *method,
        *flags,
    ]
    answers = tmp_path / "r.jsonl"
    few = ["--question-end", "1", "--max-new-tokens", "20", "--answer-file", str(answers)]
    environment = {**os.environ, "SPECTTS_DATA": str(CODE / "data")}
    done = subprocess.run(
        [*command, *few], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert answers.read_text().count("\n") == 2
