"""The rules of the layout: who may import whom, and how long things may be."""

import ast
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

CODE = Path(__file__).resolve().parents[1]
FILES = [f for p in ("model", "evaluation", "training") for f in sorted((CODE / p).rglob("*.py"))]
READERS = ("records", "metrics", "legacy", "runs", "speed", "tables", "plots", "boxed", "errors", "writer", "statistics",
           "redundancy", "leaderboard", "score")


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def under(names: set[str], *prefixes: str) -> set[str]:
    return {n for n in names if any(n == p or n.startswith(p + ".") for p in prefixes)}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(CODE)))
def test_import_direction(file):
    package, *rest = file.relative_to(CODE).parts
    found = imports(file)
    if package == "model":
        assert not under(found, "evaluation", "training")
        if rest[0] == "index":
            assert not under(found, "torch", "transformers", "model.draft", "model.engine", "model.drafters")
        if rest[0] == "engine":
            assert not under(found, "model.drafters", "model.eagle3")
        if rest[0] == "drafters":
            assert not {n for n in under(found, "model.drafters")}, "one drafter never imports another"
    if package == "evaluation":
        assert not under(found, "training")


@pytest.mark.parametrize("module", [m for m in READERS if (CODE / "evaluation" / f"{m}.py").exists()])
def test_the_reading_side_loads_no_torch_and_no_models(module):
    code = (f"import sys, evaluation.{module}\n"
            "allowed = ('model.errors', 'model.index')\n"
            "bad = [m for m in sys.modules if m in ('torch', 'transformers')]\n"
            "bad += [m for m in sys.modules if m.startswith('model.') and not m.startswith(allowed)]\n"
            "sys.exit(', '.join(bad) or 0)")
    subprocess.run([sys.executable, "-c", code], cwd=CODE, check=True)


def test_sizes():
    lengths = []
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert text.count("\n") <= 300, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lengths.append(node.end_lineno - node.lineno + 1)
                assert lengths[-1] <= 80, f"{file}: {node.name}"
    assert median(lengths) < 15


def test_no_package_shadows_the_standard_library():
    assert not (CODE / "__init__.py").exists()
    names = {f.stem for f in (CODE / "evaluation").glob("*.py")}
    assert not names & (sys.stdlib_module_names - {"__init__"}), names & sys.stdlib_module_names


def test_every_module_says_what_it_is():
    for file in FILES:
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or not file.read_text().strip(), file


def test_the_pins_satisfy_the_ranges():
    from packaging.requirements import Requirement

    try:
        import tomllib
    except ImportError:
        tomllib = pytest.importorskip("tomli")
    project = tomllib.loads((CODE / "pyproject.toml").read_text())["project"]
    ranges = {r.name: r.specifier for r in map(Requirement, [*project["dependencies"],
                                                             *project["optional-dependencies"]["hub"]])}
    for family in ("qwen3", "deepseek"):
        assert (CODE / f"environment_{family}.txt").read_text().strip() == f"-r ../environment_{family}.txt"
        lines = (CODE.parent / f"environment_{family}.txt").read_text().splitlines()
        pins = {r.name: r.specifier for r in (Requirement(x) for x in lines if x and not x.startswith("#"))}
        assert set(ranges) <= set(pins)
        for name, specifier in ranges.items():
            (pin,) = pins[name]
            assert pin.operator == "==" and specifier.contains(pin.version), name
