"""The rules of the layout: who may import whom, and how code may look.

The rules are stated for folders; no list of files is kept here.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

CODE = Path(__file__).resolve().parents[1]
PACKAGES = ("model", "evaluation", "training")
FILES = [file for package in PACKAGES for file in sorted((CODE / package).rglob("*.py"))]
MODULES = {
    ".".join(file.relative_to(CODE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in FILES
}
TORCH = ("torch", "transformers")
ROOMS_WITHOUT_TORCH = ("evaluation.records", "evaluation.analysis", "evaluation.report")
SHARED_BY_COMMANDS = "evaluation.command"

MAY_NOT_IMPORT = {
    "model": ("evaluation", "training"),
    "model.contract": ("model.drafters", "model.methods"),
    "model.index": (*TORCH, "model.contract", "model.engine", "model.drafters", "model.eagle3"),
    "model.families": ("model.engine", "model.drafters", "model.eagle3"),
    "model.engine": ("model.drafters", "model.eagle3", "model.methods", "model.checkpoint"),
    "model.engine.noise": ("model.contract",),
    "model.eagle3": ("model.drafters", "model.methods"),
    "model.drafters": ("model.drafters", "model.methods"),
    "evaluation": ("training",),
    "evaluation.paradigms": ("model.engine", "model.drafters", "evaluation.running"),
    "evaluation.records": ("evaluation.analysis", "evaluation.report", "evaluation.running"),
    "evaluation.analysis": ("evaluation.report", "evaluation.running"),
    "evaluation.report": ("evaluation.running",),
    "evaluation.running": ("evaluation.analysis", "evaluation.report"),
}
"""A module below the first never imports one below the second."""


def is_below(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def imports(file: Path) -> set[str]:
    """Everything a file imports, within functions and for type checking too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = inner & set(MODULES)
            # `from package import module` needs the module, not what the package defines
            names |= modules if modules == inner else inner | {node.module}
    return names


def known(names: set[str]) -> set[str]:
    """The modules of ours among them."""
    return {name for name in names if name in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_import_direction(module):
    used = imports(MODULES[module])
    for room, forbidden in MAY_NOT_IMPORT.items():
        if is_below(module, room):
            assert not {name for name in used if is_below(name, *forbidden)}


@pytest.mark.parametrize("module", [m for m in MODULES if is_below(m, "evaluation")])
def test_rooms_do_not_reach_up_to_commands(module):
    is_in_room = module.count(".") > 1 or (CODE / module.replace(".", "/")).is_dir()
    if not is_in_room:
        return
    commands = {m for m in MODULES if m.count(".") == 1 and is_below(m, "evaluation")}
    commands -= {m for m in commands if (CODE / m.replace(".", "/")).is_dir()}
    assert not known(imports(MODULES[module])) & (commands - {SHARED_BY_COMMANDS})


def test_there_is_no_import_circle():
    """Imports within functions and for type checking count too.

    A package that looks its files up by name, as plug-ins are found, does not import them.
    """
    graph = {module: known(imports(file)) - {module} for module, file in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, and names the circle


@pytest.mark.parametrize("room", ROOMS_WITHOUT_TORCH)
def test_the_reading_side_loads_no_torch(room):
    modules = [m for m in MODULES if is_below(m, room) and not m.endswith("__main__")]
    assert len(modules) > 3
    program = (
        f"import sys, importlib\nfor m in {modules}: importlib.import_module(m)\n"
        f"sys.exit(', '.join(m for m in {TORCH} if m in sys.modules) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=CODE, check=True)


def test_commands_start_without_triton():
    """PyTorch brings Triton on some platforms only; nothing but a GPU's kernels needs it."""
    program = "import sys; sys.modules['triton'] = None; import evaluation.running.loop"
    program += "; from model.engine import backends; print(backends.names())"
    done = subprocess.run([sys.executable, "-c", program], cwd=CODE, capture_output=True, text=True)
    assert done.returncode == 0 and "cuda_graph" in done.stdout, done.stderr


def test_no_package_shadows_the_standard_library():
    assert not (CODE / "__init__.py").exists()
    names = {file.stem for file in (CODE / "evaluation").glob("*.py")}
    assert not names & (sys.stdlib_module_names - {"__init__"})


def test_every_module_says_what_it_is():
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)) or not text.strip(), file


def comprehensions_per_thousand_statements(package: str) -> float:
    comprehensions = statements = 0
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for file in (CODE / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            statements += isinstance(node, ast.stmt)
            comprehensions += isinstance(node, kinds)
    return 1000 * comprehensions / statements


@pytest.mark.parametrize("package", ("model", "evaluation"))
def test_one_idea_a_line(package):
    assert comprehensions_per_thousand_statements(package) < 45


def test_the_pins_satisfy_the_ranges():
    from packaging.requirements import Requirement

    try:
        import tomllib
    except ImportError:
        tomllib = pytest.importorskip("tomli")
    project = tomllib.loads((CODE / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["hub"]]
    ranges = {r.name: r.specifier for r in map(Requirement, wanted)}
    for family in ("qwen3", "deepseek"):
        link = (CODE / f"environment_{family}.txt").read_text().strip()
        assert link == f"-r ../environment_{family}.txt"
        lines = (CODE.parent / f"environment_{family}.txt").read_text().splitlines()
        pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
        pins = {r.name: r.specifier for r in pinned}
        assert set(ranges) <= set(pins)
        for name, specifier in ranges.items():
            (pin,) = pins[name]
            assert pin.operator == "==" and specifier.contains(pin.version), name
