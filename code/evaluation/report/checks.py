"""What was read from a file is what it should be."""

from __future__ import annotations

from typing import Any


def checked(value: Any, *kinds: type) -> Any:
    """The value; raises TypeError where it is of none of these types. True is no number."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{value!r:.40} in place of {wanted}")
    if isinstance(value, str):
        value.encode()  # a lone surrogate cannot be written
    return value


def texts(values: Any) -> list[str]:
    """A list of texts; raises TypeError where it is none."""
    return [checked(value, str) for value in checked(values, list, tuple)]
