"""Methods by name: every file in `model/drafters/` is one, found by being there.

A file `NAME.py` is the method NAME. It defines `Config`, a frozen dataclass whose fields are the
method's options, and `build(config, model) -> Drafter`. A composite declares `COMPOSES = "outer"`
and `INNER = "default"` and is built by `build(config, model, inner)`; `outer[NAME]` then names it
with any inner drafter. A drafter that runs a model, or reads more of the target than its tokens,
says in `NEEDS_MODEL` why a recorded text is not enough for it.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from model.errors import UserError

if TYPE_CHECKING:
    from model.contract import Drafter
    from model.engine.model import Model
    from model.memory import CacheSize


@dataclass(frozen=True)
class Method:
    """A method as parsed: its name, its drafter's module and, for a composite, the inner method."""

    name: str
    module: ModuleType
    inner: Method | None = None

    def parts(self) -> list[Method]:
        """This method and the methods inside it, outermost first."""
        return [self] + (self.inner.parts() if self.inner else [])


def names() -> list[str]:
    """Every method there is a file for: vanilla first, the rest in alphabetical order."""
    package = importlib.import_module("model.drafters")
    files = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(files, key=lambda name: name != "vanilla")


def parse(name: str) -> Method:
    """The method called `name`; raises UserError for an unknown one, naming the nearest."""
    outer, bracket, inner = name.partition("[")
    inner = inner.rstrip("]")
    if bracket and inner in names():
        for candidate in names():
            module = _module(candidate)
            if getattr(module, "COMPOSES", None) == outer:
                return Method(name, module, parse(inner))
    elif not bracket and outer in names():
        module = _module(outer)
        default_inner = getattr(module, "INNER", None)
        return Method(name, module, parse(default_inner) if default_inner else None)
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    raise UserError(
        f"unknown method '{name}'{hint} Known methods: {', '.join(names())}, and sam[METHOD]."
    )


def why_no_replay(name: str) -> str:
    """Why a method cannot go along a recorded text without its target; empty where it can.

    A method's file says so in `NEEDS_MODEL`.
    """
    return _first_said(name, "NEEDS_MODEL")


def what_replay_needs(name: str) -> str:
    """What a method asks for beside a recorded text, a datastore say; empty where nothing.

    A method's file says so in `REPLAY_NEEDS`.
    """
    return _first_said(name, "REPLAY_NEEDS")


def _first_said(name: str, constant: str) -> str:
    """What the outermost part of a method that defines this constant says; empty where none."""
    said = [getattr(part.module, constant, "") for part in parse(name).parts()]
    return next(filter(None, said), "")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"model.drafters.{name}")


def config_types(name: str) -> list[type]:
    """The option dataclasses of a method: its own and, for a composite, its inner method's."""
    return [part.module.Config for part in parse(name).parts()]


def configure(name: str, options: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
    """The option objects of a method, outermost first, from option values by field name.

    An option that two parts of a composite share is given to both. Raises UserError for an unknown
    option, and where a value is refused.
    """
    options = dict(options or {})
    types = config_types(name)
    known: set[str] = set()
    for kind in types:
        known |= {field.name for field in dataclasses.fields(kind)}
    if unknown := set(options) - known:
        raise UserError(
            f"method '{name}' has no option {', '.join(sorted(unknown))};"
            f" it has: {', '.join(sorted(known))}"
        )
    configs = []
    for kind in types:
        fields = {field.name for field in dataclasses.fields(kind)}
        configs.append(kind(**{key: value for key, value in options.items() if key in fields}))
    return tuple(configs)


def held_bytes(name: str, configs: tuple[Any, ...], size: CacheSize) -> int:
    """What the models of method `name` will hold beside the target, before they are loaded.

    A method's file with a model of its own says so in a function `held_bytes(config, size)`.
    """
    held = 0
    for part, config in zip(parse(name).parts(), configs, strict=True):
        if of_part := getattr(part.module, "held_bytes", None):
            held += of_part(config, size)
    return held


def build(name: str, model: Model, configs: tuple[Any, ...]) -> Drafter:
    """Build method `name` for the target `model`; `configs` are its option objects, outermost
    first.

    Raises UserError where an artefact (head, draft model, datastore) does not fit the target.
    """
    return _build(parse(name), model, configs)


def _build(method: Method, model: Model, configs: tuple[Any, ...]) -> Drafter:
    if method.inner is None:
        return method.module.build(configs[0], model)
    return method.module.build(configs[0], model, _build(method.inner, model, configs[1:]))


def load(name: str, model: Model, options: Mapping[str, Any] | None = None) -> Drafter:
    """`configure` and `build` in one: method `name` with option values by field name."""
    return build(name, model, configure(name, options))
