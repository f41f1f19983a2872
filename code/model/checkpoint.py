"""Loading checkpoints: a local folder, a hub id, or `mini`, the family in the repository.

Whatever a user can mend is a UserError that says how.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from model.engine.model import Model
from model.errors import UserError, first_line
from model.families import Family, family_of, stop_ids
from model.index.suffix_array import SuffixArray, open_file
from model.memory import check_fits
from model.paths import MINI

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
DATASTORE_HINT = (
    "build one with: python -m training.datastore --model-path MODEL --text FILES --out STORE"
)


@dataclass(frozen=True)
class Loaded:
    """A target ready to run, with what belongs to its tokenizer and family."""

    model: Model
    tokenizer: PreTrainedTokenizerBase
    family: Family
    stop_ids: frozenset[int]


def resolve(path: str, part: str = "target") -> str:
    """`mini` -> the folder of the family's `part`; a path or hub id stays as it is.

    Raises UserError for a path that is no checkpoint folder.
    """
    if path == "mini":
        path = str(MINI / part)
    folder = Path(path)
    is_local = folder.exists() or path.startswith((".", "/", "~")) or path.count("/") > 1
    if not is_local:
        return path
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(
            f"model path {path} is not a folder; give a checkpoint folder, a hub id, or 'mini'"
        )
    if not (folder / "config.json").exists():
        raise UserError(
            f"model path {path} holds no config.json; a Hugging Face checkpoint folder is expected"
        )
    return str(folder)


def load_config(path: str) -> Any:
    """The checkpoint's configuration; raises UserError where transformers knows no such model."""
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load a model from '{path}': {first_line(error)}") from None


def load_model(
    path: str,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | None = None,
    positions: int = 512,
    engine: str = "auto",
) -> Model:
    """The causal language model at `path` (already resolved) on its device, in evaluation mode.

    `positions` is how many tokens its cache will hold: what a GPU cannot is refused before loading.
    Raises UserError for checkpoints that are damaged, unsupported or too large.
    """
    config = load_config(path)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # recording a graph makes it warn of an unset loss
    placement = {"device_map": device_map} if device_map else {}
    if not device_map:
        check_fits(config, DTYPES[dtype], device, positions)
    try:
        network = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=DTYPES[dtype], **placement
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"'{path}' is not a usable causal language model: {first_line(error)}"
        ) from None
    except Exception as error:  # safetensors raises its own type for a truncated file
        if "safetensor" not in f"{type(error).__module__}.{type(error).__name__}".lower():
            raise
        raise UserError(
            f"the weights in '{path}' are damaged: {first_line(error)}; copy them again"
        ) from None
    if not device_map:
        torch.nn.Module.to(network, device)  # transformers wraps `to` in a type of its own
    return Model(network, path, engine)


def load_tokenizer(path: str, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer at `path`; a chat template is needed, from it or from a file (Jinja)."""
    tokenizer = _tokenizer(path)
    if chat_template:
        try:
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot read --chat-template {chat_template}: {error.strerror}"
            ) from None
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer in '{path}' has no chat template;"
            " give one with --chat-template FILE (Jinja)"
        )
    return tokenizer


def _tokenizer(path: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot load a tokenizer from '{path}': {first_line(error)}") from None


def tokenizer_hash(path: str) -> str:
    """Identifies a tokenizer by its vocabulary; empty for a model that has no path."""
    if not path:
        return ""
    vocabulary = sorted(_tokenizer(path).get_vocab().items())
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()[:16]


def open_datastore(path: str, model: Model) -> SuffixArray:
    """The datastore at `path`, or the mini family's own for 'mini'.

    Raises UserError where it cannot be read or was built with another tokenizer than the target's.
    """
    file = MINI / "rest.datastore" if path == "mini" else Path(path)
    try:
        store = open_file(file)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use datastore {file}: {error}; {DATASTORE_HINT}") from None
    is_larger = store.header["vocab_size"] > model.vocab_size
    if is_larger or store.header["tokenizer"] != tokenizer_hash(model.path):
        raise UserError(
            f"datastore {file} was built with another tokenizer than the target's; {DATASTORE_HINT}"
        )
    return store


def load(
    path: str,
    dtype: str = "float32",
    device: str = "cpu",
    chat_template: str | None = None,
    device_map: str | None = None,
    positions: int = 512,
    engine: str = "auto",
) -> Loaded:
    """Target, tokenizer, family and stop ids of a checkpoint; arguments as of `load_model`."""
    resolved = resolve(path)
    load_config(resolved)
    tokenizer = load_tokenizer(resolved, chat_template)
    model = load_model(resolved, dtype, device, device_map, positions, engine)
    family = family_of(model.config, tokenizer)
    stops = stop_ids(tokenizer, model.network.generation_config, family)
    return Loaded(model, tokenizer, family, stops)
