"""Flags from option dataclasses: of one method, of several at once, and of paradigms.

A field `sam_nodes` is the flag `--sam-nodes`; older names stay as aliases. Where several methods of
a command claim one flag (an alias, or an option of the same name), the flag sets all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.command import real
from model import methods
from model.errors import UserError


@dataclass(frozen=True)
class Option:
    """One field of one option dataclass."""

    owner: type
    field: dataclasses.Field[Any]

    @property
    def dest(self) -> str:
        """Where its value stands among the parsed flags: two dataclasses may share a field name."""
        return f"{self.owner.__module__}.{self.owner.__qualname__}:{self.field.name}"

    @property
    def flags(self) -> list[str]:
        """The flag, then its older names."""
        flag = "--" + self.field.name.replace("_", "-")
        return [flag, *self.field.metadata.get("aliases", ())]

    @property
    def help(self) -> str:
        text = self.field.metadata.get("help", "")
        return f"{text} (default: {self.field.default})"

    @property
    def is_switch(self) -> bool:
        return isinstance(self.field.default, bool)

    def value(self, text: str) -> Any:
        """A flag's value; raises ValueError where it is of another type."""
        kind: Any = type(self.field.default)
        if kind is float:
            return real(text)
        return text if self.field.default is None else kind(text)


class _SetAll(argparse.Action):
    """Sets every option that claims the flag."""

    def __init__(self, *args: Any, options: Sequence[Option], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._options = options

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for option in self._options:
            if option.is_switch:
                value: Any = not (option_string or "").startswith("--no-")
            else:
                try:
                    value = option.value(values)
                except ValueError:
                    kind = type(option.field.default).__name__
                    raise argparse.ArgumentError(
                        self, f"invalid {kind} value: '{values}'"
                    ) from None
            setattr(namespace, option.dest, value)


def add_options(group: Any, types: Iterable[type]) -> None:
    """Add the flags of these option dataclasses to a parser or group."""
    claims: dict[str, list[Option]] = defaultdict(list)
    for owner in dict.fromkeys(types):
        for field in dataclasses.fields(owner):
            option = Option(owner, field)
            for flag in option.flags:
                claims[flag].append(option)
    flags_of: dict[tuple[Option, ...], list[str]] = defaultdict(list)
    for flag, claimants in claims.items():
        flags_of[tuple(claimants)].append(flag)
    for options, flags in flags_of.items():
        first = options[0]
        if first.is_switch:
            flags = flags + ["--no-" + flag.removeprefix("--") for flag in flags]
        group.add_argument(
            *flags,
            action=_SetAll,
            options=options,
            nargs=0 if first.is_switch else None,
            dest=first.dest,
            default=argparse.SUPPRESS,
            metavar=first.field.name.upper(),
            help=first.help.replace("%", "%%"),
        )


def config_from(owner: type, args: argparse.Namespace) -> Any:
    """The option object of parsed flags; raises UserError for values it refuses."""
    values = {}
    for field in dataclasses.fields(owner):
        option = Option(owner, field)
        if hasattr(args, option.dest):
            values[field.name] = getattr(args, option.dest)
    try:
        return owner(**values)
    except ValueError as error:
        raise UserError(str(error)) from None


def method_configs(name: str, args: argparse.Namespace) -> tuple[Any, ...]:
    """The option objects of a method, outermost first."""
    return tuple(config_from(owner, args) for owner in methods.config_types(name))
