"""Model families, one file each: how one is recognised, how it marks thinking, which draft model it
has.

A file here defines `FAMILY`; it is found by being here. `default` is for every other Hugging Face
causal LM: no thinking markers, hence no forced end of thinking."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.contract import Forcing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Family:
    """What differs between model families. Token ids are never written down: they come from the
    tokenizer.
    """

    name: str
    recognise: Callable[[Any, PreTrainedTokenizerBase], bool]
    """Given config and tokenizer: is this checkpoint of the family?"""
    end_think: str | None = None
    """The token that ends thinking."""
    closing: str = ""
    """What is forced when the thinking budget is used up; holds `end_think`."""
    end_tokens: tuple[str, ...] = ()
    """Tokens that end an answer beside the ones generation config and tokenizer name."""

    def end_think_id(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        return token_id(tokenizer, self.end_think) if self.end_think else None

    def forcing(self, tokenizer: PreTrainedTokenizerBase, after: int) -> Forcing | None:
        """The forced end of thinking once `after` tokens are out; None without thinking markers."""
        end = self.end_think_id(tokenizer)
        if end is None:
            return None
        return Forcing(after, tuple(tokenizer.encode(self.closing, add_special_tokens=False)), end)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """The id of a token that stands in the vocabulary as one piece, else None."""
    return tokenizer.get_vocab().get(token)


def family_of(config: Any, tokenizer: PreTrainedTokenizerBase) -> Family:
    """The family of a checkpoint, `default` where no file recognises it."""
    files = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "default")
    for name in files:
        family = importlib.import_module(f"{__name__}.{name}").FAMILY
        if family.recognise(config, tokenizer):
            return family
    return importlib.import_module(f"{__name__}.default").FAMILY


def stop_ids(
    tokenizer: PreTrainedTokenizerBase, generation_config: Any, family: Family
) -> frozenset[int]:
    """Ids that end an answer: generation config, tokenizer and template together."""
    eos = getattr(generation_config, "eos_token_id", None)
    ids = set(eos if isinstance(eos, (list, tuple)) else [eos])
    ids.add(tokenizer.eos_token_id)
    ids.update(token_id(tokenizer, token) for token in family.end_tokens)
    return frozenset(i for i in ids if i is not None)
