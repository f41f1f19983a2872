"""From traces to token ids: texts by the user's tokenizer, our own records as they are."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evaluation.replaying.trace import LONGEST, Message, Trace
from model.contract import Request
from model.engine.replay import Script
from model.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_THINK = "</think>"


@dataclass(frozen=True)
class Encoder:
    """Makes scripts of traces."""

    tokenizer: PreTrainedTokenizerBase | None = None
    stop_ids: frozenset[int] = frozenset()
    """Of our own records; foreign texts may hold any token and end where they end."""
    questions: Mapping[str, str] | None = None
    """Texts of questions by id, for traces without prompts."""
    uses_chat: bool = False
    """Is a prompt's text what the user said, rather than what the model saw?"""

    def script(self, trace: Trace) -> Script:
        """Raises UserError where the trace cannot be made ids, or is too long."""
        ids = self._text(trace)
        if not ids:
            raise UserError(f"{trace.where}: the text is empty")
        if len(ids) > LONGEST:
            raise UserError(
                f"{trace.where}: {len(ids):,} tokens; traces of up to {LONGEST:,} are replayed"
            )
        request = Request(
            prompt_ids=self._prompt(trace),
            max_new_tokens=trace.max_new_tokens or len(ids),
            temperature=trace.temperature or 0.0,
            seed=trace.seed,
            question_id=trace.question_id,
            choice=trace.choice,
            sample=trace.sample or 0,
            round=trace.round,
            stop_ids=self.stop_ids,
        )
        return Script(request, ids)

    @property
    def end_think_id(self) -> int | None:
        """The token that ends thinking, where the tokenizer has one."""
        if self.tokenizer is None:
            return None
        ids = self.tokenizer.encode(END_THINK, add_special_tokens=False)
        return ids[0] if len(ids) == 1 else None

    def _prompt(self, trace: Trace) -> list[int]:
        prompt = trace.prompt
        if isinstance(prompt, str):
            if not prompt and self.questions is not None:
                return self._chat([{"role": "user", "content": self._question(trace)}], trace)
            if not prompt:
                return []
            if self.uses_chat:
                return self._chat([{"role": "user", "content": prompt}], trace)
            return self._encoded(prompt, trace)
        if prompt and isinstance(prompt[0], dict):
            return self._chat(prompt, trace)
        return list(prompt)  # type: ignore[arg-type]

    def _question(self, trace: Trace) -> str:
        assert self.questions is not None
        question = trace.question_id.partition(" (")[0].rpartition("/")[2]
        if question not in self.questions:
            raise UserError(f"{trace.where}: --question-file has no question '{question}'")
        return self.questions[question]

    def _chat(self, messages: list[Message], trace: Trace) -> list[int]:
        tokenizer = self._tokenizer(trace)
        try:
            text: Any = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template may raise anything
            raise UserError(
                f"{trace.where}: the tokenizer's chat template refuses the messages:"
                f" {first_line(error)}"
            ) from None
        return tokenizer.encode(text, add_special_tokens=False)

    def _text(self, trace: Trace) -> list[int]:
        if not isinstance(trace.text, str):
            self._check_ids(trace.text, trace)
            return trace.text
        ids = self._encoded(trace.text, trace)
        decoded = self._decoded(ids, trace)
        if not _is_same(decoded, trace.text):
            raise UserError(
                f"{trace.where}: the tokenizer does not reproduce the text it encoded (it differs"
                f" from character {_first_difference(decoded, trace.text)} on); give the"
                " tokenizer of the model that wrote it, or leave it out with --skip-bad-lines"
            )
        return ids

    def _check_ids(self, ids: list[int], trace: Trace) -> None:
        """Are the ids beside a text its tokens by this tokenizer?"""
        if self.tokenizer is None or trace.is_ours or not trace.plain_text:
            return
        if max(ids, default=0) >= len(self.tokenizer) or not _is_same(
            self._decoded(ids, trace).strip(), trace.plain_text.strip()
        ):
            raise UserError(
                f"{trace.where}: the tokenizer does not make the text of these token ids; give the"
                " one that made them"
            )

    def _encoded(self, text: str, trace: Trace) -> list[int]:
        return self._tokenizer(trace).encode(text, add_special_tokens=False)

    def _decoded(self, ids: list[int], trace: Trace) -> str:
        text = self._tokenizer(trace).decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def _tokenizer(self, trace: Trace) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise UserError(
                f"{trace.where}: these traces are text; give the model's tokenizer with"
                " --tokenizer FOLDER"
            )
        return self.tokenizer


def _is_same(decoded: str, text: str) -> bool:
    """Tokenizers may normalise (Qwen's composes accents): equal after that is equal."""
    return decoded == text or _normal(decoded) == _normal(text)


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _first_difference(a: str, b: str) -> int:
    for place, (first, second) in enumerate(zip(a, b)):
        if first != second:
            return place
    return min(len(a), len(b))
