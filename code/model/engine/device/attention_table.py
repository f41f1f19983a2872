"""How attention is launched for how many rows: as `bench/attention.py --save` found it fastest.

A file for each kind of card, shape of heads and number type, in `data/attention`: a choice that is
written down, so that runs of a machine agree and a run can be repeated. vLLM keeps the settings of
its kernels the same way. Where there is no file everything is launched by default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.engine.device.launch import DEFAULT, Launch
from model.errors import UserError
from model.paths import DATA

FOLDER = DATA / "attention"
FLEX_ROWS = 64
"""More are not asked of FlexAttention."""


@dataclass(frozen=True)
class Kind:
    """What a table is for."""

    card: str
    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def path(self) -> Path:
        sizes = f"{self.heads}x{self.kv_heads}x{self.head_dim}"
        dtype = str(self.dtype).removeprefix("torch.")
        return FOLDER / f"{self.card.replace(' ', '-')}_{sizes}_{dtype}.json"


@dataclass(frozen=True)
class AttentionTable:
    """Launches by the number of rows they were measured for."""

    name: str = ""
    """Of its file; empty where there is none."""
    launches: Mapping[int, Launch] = field(default_factory=dict)

    def of(self, rows: int) -> Launch:
        """As measured for so many rows, else for the next more, else for the most."""
        if not self.launches:
            return DEFAULT
        measured = sorted(self.launches)
        nearest = next((size for size in measured if size >= rows), measured[-1])
        launch = self.launches[nearest]
        return DEFAULT if launch.kernel == "flex" and rows > FLEX_ROWS else launch

    def without(self, rows: int) -> AttentionTable:
        """So many rows launched by default."""
        return AttentionTable(self.name, {**self.launches, rows: DEFAULT})

    def without_flex(self) -> AttentionTable:
        """For several sequences: FlexAttention serves one alone; and for steps that are not
        compiled: it would not be either."""
        launches = {
            rows: DEFAULT if launch.kernel == "flex" else launch
            for rows, launch in self.launches.items()
        }
        return AttentionTable(self.name, launches)

    def __str__(self) -> str:
        """The launches that are not the default, by rows."""
        others = {rows: launch for rows, launch in self.launches.items() if launch != DEFAULT}
        return ", ".join(f"{rows} rows: {launch}" for rows, launch in sorted(others.items()))


def card_of(device: torch.device) -> str:
    """The name of the GPU, or 'cpu'."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def load(kind: Kind) -> AttentionTable:
    """Empty where nothing was measured; raises UserError for a damaged file."""
    path = kind.path
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return AttentionTable()
    try:
        launches = {int(rows): Launch(**given) for rows, given in json.loads(text)["rows"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a table of attention ({error}); delete it, or write it anew by"
            " python bench/attention.py --save"
        ) from None
    return AttentionTable(path.stem, launches)


def save(kind: Kind, launches: Mapping[int, Launch], made: Mapping[str, Any]) -> Path:
    """Write a table, and by what it was `made`."""
    rows = {
        str(size): {"kernel": launch.kernel, **launch.changed()}
        for size, launch in sorted(launches.items())
    }
    path = kind.path
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"made": dict(made), "rows": rows}, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")
    return path
