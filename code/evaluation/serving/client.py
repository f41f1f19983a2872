"""Asking an OpenAI-compatible server: requests, streams, retries; a reply is whole or it is none.

A reply counts only where the server said why it ended and how many tokens it has. Whatever else
happens on the way (no connection, a time-out, a stream cut short, 429, 5xx) is tried again, with
longer and longer pauses.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from model.errors import UserError, first_line, printable

KEY_VARIABLES = ("SPECTTS_API_KEY", "OPENAI_API_KEY")
"""Where the key is looked for; it is written nowhere."""
CONNECT_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
TOO_MANY = 429
NOT_ALLOWED = (401, 403)
LONGEST_MESSAGE = 300


class ServerGone(UserError):
    """The server cannot be reached, or does not serve this: nothing after it would work either."""


class RequestRefused(Exception):
    """The server will not answer this request, however often it is asked."""


class ReplyFailed(Exception):
    """No whole reply came, after all tries."""


class _TryAgain(Exception):
    """This try failed; another may not."""

    def __init__(self, why: str, pause: float = 0.0, is_connected: bool = True) -> None:
        super().__init__(why)
        self.pause, self.is_connected = pause, is_connected


@dataclass
class Reply:
    """A whole reply. Times in seconds from the request that yielded it."""

    text: str = ""
    reasoning: str = ""
    """Thinking that the server parsed out of the text."""
    finish_reason: str = ""
    prompt_tokens: int = 0
    new_tokens: int | None = None
    token_ids: list[int] = field(default_factory=list)
    """Empty where the server does not tell them."""
    prompt_ids: list[int] = field(default_factory=list)
    top_logprobs: list[list[float]] = field(default_factory=list)
    """Of every token the likeliest ones' log-probabilities, best first; where asked for."""
    first_token: float | None = None
    seconds: float = 0.0
    retries: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    """Top-level fields that are an engine's own."""


STANDARD = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint"}
)


@dataclass(frozen=True)
class Patience:
    """How long a reply is waited for, and how often it is asked for again."""

    timeout: float = 600.0
    """Seconds without a word from the server."""
    retries: int = 4


class Client:
    """One server. Threads may share it; `close` when done."""

    def __init__(self, base_url: str, patience: Patience = Patience()) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.patience = patience
        if not self.base_url.startswith(("http://", "https://")):
            raise UserError(
                f"--base-url begins with http:// or https://, as in http://127.0.0.1:8000, not"
                f" '{printable(base_url)}'"
            )
        key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "")
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(patience.timeout, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # a proxy would be measured too
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """What a GET yields, parsed or as text; None where the server has no such page.

        Raises ServerGone where it cannot be reached.
        """
        try:
            response = self._http.get(self.base_url + path)
        except httpx.InvalidURL as error:
            raise UserError(f"--base-url '{printable(self.base_url)}': {error}") from None
        except httpx.HTTPError as error:
            raise self._gone(error) from None
        if response.status_code in NOT_ALLOWED:
            raise ServerGone(self._not_allowed(response.status_code))
        if response.status_code >= 400:
            return None
        try:
            return response.json()
        except ValueError:
            return response.text

    def models(self) -> list[str]:
        """The models it serves; raises ServerGone where nobody speaks the protocol there."""
        found = self.get("/v1/models")
        try:
            return [str(model["id"]) for model in found["data"]]
        except (KeyError, TypeError):
            raise ServerGone(
                f"{self.base_url} does not answer /v1/models as an OpenAI-compatible server does;"
                " --base-url is its address without /v1, as in http://127.0.0.1:8000"
            ) from None

    def is_healthy(self) -> bool:
        """Does it still answer /v1/models?"""
        try:
            return bool(self.models())
        except UserError:
            return False

    def chat(self, body: dict[str, Any], sent: Callable[[], None] = lambda: None) -> Reply:
        """The reply to one request; `sent` is called before every try.

        Raises RequestRefused, ReplyFailed, and ServerGone where the server went away.
        """
        for tried in range(self.patience.retries + 1):
            sent()
            try:
                reply = self._try(body)
            except _TryAgain as failure:
                is_last = tried == self.patience.retries
                if is_last and not failure.is_connected:
                    raise ServerGone(str(failure)) from None
                if is_last:
                    raise ReplyFailed(f"{failure} ({tried + 1} tries)") from None
                time.sleep(failure.pause or min(LONGEST_PAUSE, FIRST_PAUSE * 2**tried))
                continue
            reply.retries = tried
            return reply
        raise AssertionError("unreachable")

    def _try(self, body: dict[str, Any]) -> Reply:
        begun = time.perf_counter()
        url = f"{self.base_url}/v1/chat/completions"
        try:
            with self._http.stream("POST", url, json=body) as response:
                self._check_status(response)
                if body.get("stream"):
                    reply = _read_stream(response.iter_lines(), begun)
                else:
                    response.read()
                    reply = _read_whole(response.text)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _TryAgain(str(self._gone(error)), is_connected=False) from None
        except httpx.TimeoutException:
            raise _TryAgain(f"no word for {self.patience.timeout:g} s (--timeout)") from None
        except httpx.HTTPError as error:
            raise _TryAgain(f"the connection broke ({first_line(error)})") from None
        reply.seconds = time.perf_counter() - begun
        _check_whole(reply)
        return reply

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status < 400:
            return
        response.read()
        why = f"HTTP {status}: {_message(response.text)}"
        if status in NOT_ALLOWED:
            raise ServerGone(self._not_allowed(status))
        if status == TOO_MANY or status >= 500:
            raise _TryAgain(why, _seconds(response.headers.get("Retry-After")))
        raise RequestRefused(why)

    def _gone(self, error: Exception) -> ServerGone:
        return ServerGone(
            f"no server answers at {self.base_url} ({first_line(error)}); is it started, and is"
            " --base-url its address?"
        )

    def _not_allowed(self, status: int) -> str:
        return (
            f"{self.base_url} refuses us (HTTP {status}); a key is read from the environment"
            f" variable {KEY_VARIABLES[0]}"
        )


def _seconds(text: str | None) -> float:
    """Of a Retry-After header; 0 where it says nothing usable."""
    try:
        return min(LONGEST_PAUSE, max(0.0, float(text or 0)))
    except ValueError:
        return 0.0


def _message(text: str) -> str:
    """What an error reply says."""
    try:
        data = json.loads(text)
        error = data.get("error", data) if isinstance(data, dict) else data
        message = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        message = text
    return printable(str(message))[:LONGEST_MESSAGE]


def _read_whole(text: str) -> Reply:
    """A reply that came at once."""
    data = _parsed(text)
    reply = Reply()
    _take_common(reply, data)
    for choice in data.get("choices") or []:
        message = choice.get("message") or {}
        _take_choice(reply, choice, message)
    return reply


def _read_stream(lines: Iterator[str], begun: float) -> Reply:
    """A reply that came in pieces."""
    reply, is_done = Reply(), False
    for line in lines:
        if not line.startswith("data:"):
            continue
        piece = line[len("data:") :].strip()
        if piece == "[DONE]":
            is_done = True
            break
        data = _parsed(piece)
        _take_common(reply, data)
        for choice in data.get("choices") or []:
            delta = choice.get("delta") or {}
            if _take_choice(reply, choice, delta) and reply.first_token is None:
                reply.first_token = time.perf_counter() - begun
    if not is_done:
        raise _TryAgain("the stream was cut in the middle")
    return reply


def _parsed(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        raise _TryAgain(f"the reply is no JSON: {printable(text)[:80]}") from None
    if not isinstance(data, dict):
        raise _TryAgain("the reply is no JSON object")
    if data.get("error"):
        raise _TryAgain(f"the server failed: {_message(text)}")
    return data


def _take_common(reply: Reply, data: dict[str, Any]) -> None:
    usage = data.get("usage")
    if usage:
        reply.prompt_tokens = int(usage.get("prompt_tokens") or 0)
        reply.new_tokens = int(usage.get("completion_tokens") or 0)
    if prompt_ids := data.get("prompt_token_ids"):
        reply.prompt_ids = list(prompt_ids)
    for name, value in data.items():
        if name not in STANDARD and value is not None:
            reply.extra[name] = value


def _take_choice(reply: Reply, choice: dict[str, Any], message: dict[str, Any]) -> bool:
    """Add a choice's, or a piece's, words; returns whether it brought any."""
    text = message.get("content") or ""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    ids = choice.get("token_ids") or []
    reply.text += text
    reply.reasoning += reasoning
    reply.token_ids += ids
    reply.finish_reason = choice.get("finish_reason") or reply.finish_reason
    for name in ("meta_info", "sglext", "timings"):
        if choice.get(name):
            reply.extra[name] = choice[name]
    for position in (choice.get("logprobs") or {}).get("content") or []:
        likeliest = [top["logprob"] for top in position.get("top_logprobs") or []]
        reply.top_logprobs.append(sorted(likeliest, reverse=True))
    return bool(text or reasoning or ids)


def _check_whole(reply: Reply) -> None:
    if not reply.finish_reason:
        raise _TryAgain("the reply does not say why it ended")
    if reply.new_tokens is None and reply.token_ids:
        reply.new_tokens = len(reply.token_ids)
    if reply.new_tokens is None:
        raise ServerGone(
            "the server's replies have no usage, so their tokens cannot be counted; with a stream"
            " some servers tell it only where it is not streamed: try --no-stream"
        )
