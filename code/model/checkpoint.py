"""Loading checkpoints: a local folder, a hub id, or `mini`, the family in the repository.

Whatever a user can mend is a UserError that says how.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from model.engine.agreement import build_model
from model.engine.model import Model
from model.errors import UserError, first_line
from model.families import Family, family_of, stop_ids
from model.index.suffix_array import SuffixArray, open_file
from model.memory import check_fits
from model.network import GGUF, load_config, load_network, read_tokenizer
from model.paths import MINI

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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

    Raises UserError for a path that is neither a checkpoint folder nor a GGUF file.
    """
    if path == "mini":
        path = str(MINI / part)
    folder = Path(path)
    is_local = folder.exists() or path.startswith((".", "/", "~")) or path.count("/") > 1
    if not is_local:
        return path
    folder = folder.expanduser()
    if folder.suffix == GGUF and folder.is_file():
        return str(folder)
    if not folder.is_dir():
        raise UserError(
            f"model path {path} is not a folder; give a checkpoint folder, a GGUF file, a hub id,"
            " or 'mini'"
        )
    if not (folder / "config.json").exists():
        raise UserError(
            f"model path {path} holds no config.json; a Hugging Face checkpoint folder is expected"
        )
    return str(folder)


def load_model(
    path: str,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | None = None,
    positions: int = 512,
    engine: str = "auto",
    sequences: int = 1,
    beside: int = 0,
) -> Model:
    """The causal language model at `path` (already resolved) on its device, in evaluation mode.

    `positions` is how many tokens its cache will hold of each of so many `sequences`, `beside` the
    bytes that others will take: what the device cannot hold is refused before loading.
    Raises UserError for checkpoints that are damaged, unsupported or too large.
    """
    config = load_config(path)
    if not device_map:
        check_fits(config, DTYPES[dtype], device, positions, sequences, beside)
    network = load_network(path, config, DTYPES[dtype], device_map)
    if not device_map:
        torch.nn.Module.to(network, device)  # transformers wraps `to` in a type of its own
    return build_model(network, path, engine)


def load_tokenizer(path: str, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer at `path`; a chat template is needed, from it or from a file (Jinja)."""
    tokenizer = read_tokenizer(path)
    if chat_template:
        try:
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UserError(f"cannot read --chat-template {chat_template}: {reason}") from None
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer in '{path}' has no chat template;"
            " give one with --chat-template FILE (Jinja)"
        )
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
    except Exception as error:  # a template may raise anything, its own errors among them
        where = chat_template or f"the tokenizer in '{path}'"
        raise UserError(
            f"the chat template of {where} fails on one user message: {first_line(error)};"
            " give another with --chat-template FILE (Jinja)"
        ) from None
    try:
        tokenizer.decode(tokenizer.encode(str(text), add_special_tokens=False))
    except Exception as error:  # settings of other types than its code expects
        raise UserError(
            f"the tokenizer in '{path}' fails on its own chat template: {first_line(error)};"
            " copy the checkpoint again"
        ) from None
    return tokenizer


def tokenizer_hash(path: str) -> str:
    """Identifies a tokenizer by its vocabulary; empty for a model that has no path."""
    if not path:
        return ""
    vocabulary = sorted(read_tokenizer(path).get_vocab().items())
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
    sequences: int = 1,
    beside: int = 0,
) -> Loaded:
    """Target, tokenizer, family and stop ids of a checkpoint; arguments as of `load_model`."""
    resolved = resolve(path)
    load_config(resolved)
    tokenizer = load_tokenizer(resolved, chat_template)
    model = load_model(resolved, dtype, device, device_map, positions, engine, sequences, beside)
    family = family_of(model.config, tokenizer)
    stops = stop_ids(tokenizer, model.network.generation_config, family)
    return Loaded(model, tokenizer, family, stops)
