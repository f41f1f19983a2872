"""Reaching a server: the flags of every command that asks one, and the model it serves."""

from __future__ import annotations

import argparse

from evaluation.command import real
from evaluation.serving.client import Client
from model.errors import UserError, printable


def add_server_flags(group: argparse._ActionsContainer) -> None:
    """Of every command that asks a server."""
    group.add_argument(
        "--model", help="name it serves the model by, default the only one; of a library its path"
    )
    group.add_argument(
        "--timeout", type=real, default=600, help="seconds without a word from the server"
    )
    group.add_argument("--retries", type=int, default=4, help="tries after one that failed")


def chosen_model(client: Client, named: str | None) -> str:
    """The model a server is asked for; raises UserError for one that it does not serve."""
    models = client.models()
    if named in models:
        return named
    if named is None and len(models) == 1:
        return models[0]
    raise UserError(f"--model is what {client.base_url} serves: {printable(', '.join(models))}")
