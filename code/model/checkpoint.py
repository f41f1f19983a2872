"""Loading checkpoints: a local folder, a hub id, or `mini`, the family in the repository; with errors a user can mend."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from model.engine.target import Engine, Target
from model.errors import UserError
from model.index.suffix_array import SuffixArray, open_file
from model.memory import check_fits
from model.targets import Family, family_of, stop_ids

# where packages travel to other machines, the data folder does not lie beside them
MINI = Path(os.environ.get("SPECTTS_DATA") or Path(__file__).resolve().parents[1] / "data") / "mini"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Loaded:
    """A target ready to run, with what belongs to its tokenizer and family."""

    target: Target
    tokenizer: PreTrainedTokenizerBase
    family: Family
    stop_ids: frozenset[int]


def resolve(path: str, part: str = "target") -> str:
    """`mini` -> the folder of the family's `part`; a path or hub id stays as it is, checked if it is a path."""
    if path == "mini":
        path = str(MINI / part)
    folder = Path(path)
    looks_local = folder.exists() or path.startswith((".", "/", "~")) or path.count("/") > 1
    if not looks_local:
        return path
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(f"model path {path} is not a folder; give a checkpoint folder, a hub id, or 'mini'")
    if not (folder / "config.json").exists():
        raise UserError(f"model path {path} holds no config.json; a Hugging Face checkpoint folder is expected")
    return str(folder)


def load_config(path: str) -> Any:
    """The checkpoint's configuration; refuses what is no text model."""
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load a model from '{path}': {_first_line(error)}") from None


def load_target(path: str, dtype: str = "float32", device: str = "cpu", device_map: str | None = None,
                positions: int = 512, engine: Engine = "auto") -> Target:
    """The causal language model at `path` (already resolved) on its device, in evaluation mode.

    `positions` is how many tokens its cache will hold: what a GPU cannot is refused before loading.
    """
    config = load_config(path)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # recording a graph makes it warn of an unset loss
    kwargs = {"device_map": device_map} if device_map else {}
    if not device_map:
        check_fits(config, DTYPES[dtype], device, positions)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=DTYPES[dtype], **kwargs)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"'{path}' is not a usable causal language model: {_first_line(error)}") from None
    except Exception as error:  # safetensors raises its own type for a truncated file
        if "safetensors" not in type(error).__module__ and "Safetensor" not in type(error).__name__:
            raise
        raise UserError(f"the weights in '{path}' are damaged: {_first_line(error)}; copy them again") from None
    return Target(model if device_map else model.to(device), path, engine)


def load_tokenizer(path: str, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer at `path`; a chat template is needed, from it or from a file."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot load a tokenizer from '{path}': {_first_line(error)}") from None
    if chat_template:
        try:
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot read --chat-template {chat_template}: {error.strerror}") from None
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer in '{path}' has no chat template; give one with --chat-template FILE (Jinja)")
    return tokenizer


def tokenizer_hash(path: str) -> str:
    """Identifies a tokenizer by its vocabulary; empty for a model that has none beside it."""
    if not path:
        return ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot load a tokenizer from '{path}': {_first_line(error)}") from None
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()[:16]


def open_for(file: Path, vocab_size: int, tokenizer: str) -> SuffixArray:
    """A datastore, refused where it was built with another tokenizer than `tokenizer` (a `tokenizer_hash`)."""
    hint = "build one with: python -m training.datastore --model-path MODEL --text FILES --out STORE"
    try:
        store = open_file(file)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use datastore {file}: {error}; {hint}") from None
    if store.header["vocab_size"] > vocab_size or store.header["tokenizer"] != tokenizer:
        raise UserError(f"datastore {file} was built with another tokenizer than the target's; {hint}")
    return store


def load(path: str, dtype: str = "float32", device: str = "cpu", chat_template: str | None = None,
         device_map: str | None = None, positions: int = 512, engine: Engine = "auto") -> Loaded:
    """Target, tokenizer, family and stop ids of a checkpoint."""
    resolved = resolve(path)
    load_config(resolved)
    tokenizer = load_tokenizer(resolved, chat_template)
    target = load_target(resolved, dtype, device, device_map, positions, engine)
    family = family_of(target.config, tokenizer)
    return Loaded(target, tokenizer, family, stop_ids(tokenizer, target.model.generation_config, family))


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return text[:300] if text else type(error).__name__
