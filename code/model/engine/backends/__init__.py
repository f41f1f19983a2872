"""Ways to run a forward, one file each, behind one small protocol and tried in order.

A file here that defines `BACKEND` is the engine of its name (`--engine NAME`), found by being
there. The model asks the first backend that takes a step; one that fails is given up for the next,
with a warning. `eager` takes everything and comes last. What a backend records is used only while
it reproduces the eager forward.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from typing import TYPE_CHECKING, ClassVar

from model.contract import NO_CAP
from model.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from model.engine.cache import KVCache
    from model.engine.forward import Output, Segment, Wanted
    from model.engine.shape import Shape


NAMES_BEFORE = ("graph", "compile")
"""Engines before version 0.2: still understood."""


class BackendFailed(Exception):
    """This backend cannot run the step here; its message says why."""


class Backend:
    """One way to run forwards of one model over one cache.

    Made anew for every cache, unless it `outlives_cache`.
    """

    spare_rows: ClassVar[int] = 0
    """Rows of the cache it needs free behind the last one that a text may take."""
    most_rows: ClassVar[int] = NO_CAP
    """Of a step that it can run: more are drafted for nobody."""
    growth: ClassVar[int] = 256
    """Positions by which a cache grows."""
    outlives_cache: ClassVar[bool] = False
    """Once closed, can it go on over another cache (`use`), with all it has recorded?"""
    rank: ClassVar[int]
    """`auto` takes the highest-ranking backend that suits the machine."""
    fallback: ClassVar[str] = "eager"
    """The simpler backend to go on with where this one fails; empty for the last."""

    @classmethod
    def unsupported(cls, shape: Shape) -> str:
        """Why models of this shape cannot run so; empty where they can."""
        raise NotImplementedError

    @classmethod
    def suits(cls, shape: Shape) -> bool:
        """Is it worth running here unless another engine is asked for?"""
        return not cls.unsupported(shape)

    def __init__(self, network: PreTrainedModel, cache: KVCache, shape: Shape) -> None:
        self.network, self.cache, self.shape = network, cache, shape

    def takes(self, segments: list[Segment], wanted: Wanted) -> bool:
        """Can it run this forward?"""
        raise NotImplementedError

    def run(self, segments: list[Segment], wanted: Wanted) -> Output:
        """Run the forward and store its rows. Raises BackendFailed; the next one then runs it."""
        raise NotImplementedError

    def keep(self, slot: int, start: int, path: list[int]) -> None:
        """Keep the accepted rows `start + path` of a step as rows `start...`, at once or later."""
        self.cache.keep(slot, start, path)

    def flush(self) -> None:
        """Do now what `keep` left for later: another backend is about to use the cache."""

    def probes(self, nodes: int) -> list[list[Segment]]:
        """Steps that record, when run, all that drafts of up to `nodes` nodes will need.

        Empty where nothing is recorded ahead. The cache may be overwritten: no text is in it yet.
        """
        return []

    def close(self) -> None:
        """Let go of what it holds of network and cache: a larger cache will be allocated."""

    def use(self, cache: KVCache) -> None:
        """Go on over another cache."""
        self.cache = cache

    @property
    def recording_seconds(self) -> float:
        """Spent on recording so far."""
        return 0.0


def names() -> list[str]:
    """Every engine there is, by rank."""
    files = []
    for module in pkgutil.iter_modules(__path__):
        if hasattr(importlib.import_module(f"{__name__}.{module.name}"), "BACKEND"):
            files.append(module.name)
    return sorted(files, key=lambda name: -load(name).rank)


def load(name: str) -> type[Backend]:
    """The backend called `name`."""
    return importlib.import_module(f"{__name__}.{name}").BACKEND


def chosen(engine: str, shape: Shape) -> list[str]:
    """The engines to try for a model of this shape, in order; the last one is `eager`.

    Raises UserError for an unknown engine; warns where a named one cannot run this model.
    """
    name = _by_its_name_today(engine, shape)
    if name == "auto":
        name = next(name for name in names() if load(name).suits(shape))
    elif name not in names():
        raise UserError(f"--engine is one of auto, {', '.join(names())}, not '{engine}'")
    order = []
    while name:
        if why := load(name).unsupported(shape):
            simpler = load(name).fallback
            warnings.warn(
                f"engine '{name}' cannot run this model ({why}); going on with '{simpler}'",
                stacklevel=2,
            )
        else:
            order.append(name)
        name = load(name).fallback
    return order


def why_not_faster(shape: Shape) -> str:
    """Why this model runs by a slower engine than the device has; empty where it does not."""
    on_cpu = all(device.type == "cpu" for device in shape.devices)
    fastest = "torchscript" if on_cpu else "cuda_graph"
    return load(fastest).unsupported(shape)


def _by_its_name_today(engine: str, shape: Shape) -> str:
    """`graph` and `compile` are what the engines were called before version 0.2."""
    on_cpu = all(device.type == "cpu" for device in shape.devices)
    return {
        "graph": "torchscript" if on_cpu else "cuda_graph",
        "compile": "cuda_graph_fused",
    }.get(engine, engine)
