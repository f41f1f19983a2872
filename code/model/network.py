"""A network from a checkpoint's files: every tensor accounted for, none of its code run.

A checkpoint is a folder or hub id in Hugging Face's layout with weights as safetensors, or one GGUF
file, whose weights transformers dequantises. Whatever a user can mend is a UserError.

transformers takes seconds to load, so it is imported where it is used: whoever asks for help, or
mistypes a flag, does not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from model.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GGUF = ".gguf"
PICKLED = ("*.bin", "*.pt", "*.pth")
SHOWN = 4
"""Tensors named in an error."""


def source(path: str) -> dict[str, Any]:
    """How transformers is told of the checkpoint at `path`; its own code is never run."""
    if path.endswith(GGUF):
        file = Path(path)
        return {
            "pretrained_model_name_or_path": str(file.parent),
            "gguf_file": file.name,
            "trust_remote_code": False,
        }
    return {"pretrained_model_name_or_path": path, "trust_remote_code": False}


def load_config(path: str) -> Any:
    """The checkpoint's configuration; raises UserError where transformers knows no such model."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(**source(path))
        config.get_text_config()
    except ImportError as error:
        raise UserError(_missing_package(path, error)) from None
    except Exception as error:  # a configuration's own checks raise whatever they like
        raise UserError(f"cannot load a model from '{path}': {first_line(error)}") from None
    return config


def read_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(**source(path))
    except ImportError as error:
        raise UserError(_missing_package(path, error)) from None
    except Exception as error:  # damaged files raise whatever their parser does
        raise UserError(f"cannot load a tokenizer from '{path}': {first_line(error)}") from None


def load_network(
    path: str, config: Any, dtype: torch.dtype, device_map: str | None
) -> PreTrainedModel:
    """The causal language model at `path`, in evaluation mode.

    Raises UserError for weights that are damaged, pickled, or not exactly the model's: tensors that
    are missing, unexpected, of another shape, or hold NaN or infinity.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    _refuse_pickled(path)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # recording a graph makes it warn of an unset loss
    arguments = source(path)
    if not path.endswith(GGUF):
        arguments["use_safetensors"] = True
    if device_map:
        arguments["device_map"] = device_map
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **arguments,
        )
    except ImportError as error:
        raise UserError(_missing_package(path, error)) from None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if "safetensor" in f"{type(error).__module__}.{type(error).__name__}".lower():
            raise UserError(
                f"the weights in '{path}' are damaged: {first_line(error)}; copy them again"
            ) from None
        raise UserError(
            f"'{path}' is not a usable causal language model: {first_line(error)}"
        ) from None
    network, report = loaded
    _check_report(path, report)
    check_finite(path, network.named_parameters())
    return network.eval()


def _refuse_pickled(path: str) -> None:
    """A pickled file may run code when it is read."""
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = [file.name for pattern in PICKLED for file in sorted(folder.glob(pattern))]
    if pickled:
        raise UserError(
            f"'{path}' holds its weights pickled ({pickled[0]}), and reading such a file may run"
            " code; save them as safetensors: model.save_pretrained(FOLDER)"
        )
    raise UserError(f"'{path}' holds no weights (*.safetensors)")


def _check_report(path: str, report: dict[str, Any]) -> None:
    """Raise UserError unless the files held exactly the model's tensors."""
    wrong = {
        "missing": sorted(report.get("missing_keys") or ()),
        "unexpected": sorted(report.get("unexpected_keys") or ()),
        "of another shape": sorted(str(key[0]) for key in report.get("mismatched_keys") or ()),
    }
    said = [f"{what}: {named(names)}" for what, names in wrong.items() if names]
    said += [first_line(Exception(message)) for message in report.get("error_msgs") or ()]
    if said:
        raise UserError(
            f"the weights in '{path}' are not those of its config.json: tensors"
            f" {'; '.join(said)}; copy the checkpoint again"
        )


def check_finite(path: str, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise UserError for weights that hold NaN or infinity, with their names."""
    damaged = []
    for name, weight in weights:
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            damaged.append(name)
    if damaged:
        raise UserError(
            f"weights in '{path}' hold NaN or infinity: {named(damaged)}; the checkpoint is"
            " damaged, or its numbers do not fit the number type (--dtype float32)"
        )


def named(names: list[str]) -> str:
    """The first of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _missing_package(path: str, error: ImportError) -> str:
    package = "small" if path.endswith(GGUF) else ""
    remedy = f"pip install -e 'code[{package}]'" if package else "install it"
    return f"'{path}' needs a package that is not here: {first_line(error)}; {remedy}"
