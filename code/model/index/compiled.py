"""Index code over flat arrays, compiled by Numba where it is there.

One source for both: without Numba the same functions run as plain Python, to the same drafts, some
fifty times slower. Compiled code is cached on disk, so only the first use on a machine waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

try:
    from numba import njit
except ImportError:
    njit = None  # type: ignore[assignment]

Function = TypeVar("Function", bound=Callable[..., Any])

IS_COMPILED = njit is not None
SLOW_NOTE = (
    "numba is not installed: drafters that look text up run as plain Python, many times slower"
    " (pip install numba)"
)


def compiled(function: Function) -> Function:
    """The function as machine code, compiled when it is first called."""
    if njit is None:
        return function
    try:
        return cast(Function, njit(function, cache=True, nogil=True))
    except RuntimeError:  # no folder that its cache could be written to
        return cast(Function, njit(function, nogil=True))


def grown(array: np.ndarray, rows: int, fill: int = 0) -> np.ndarray:
    """The array itself, or a copy of at least twice its rows where it has fewer than `rows`."""
    if len(array) >= rows:
        return array
    larger = np.full((max(rows, 2 * len(array)), *array.shape[1:]), fill, dtype=array.dtype)
    larger[: len(array)] = array
    return larger
