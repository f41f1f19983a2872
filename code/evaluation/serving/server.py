"""A small server of our own: one model, one method, one request at a time, OpenAI's protocol.

It draws with the noise of a request's seed and the output position, as a run does, so its replies
are vanilla's whatever method drafts. Every reply says its steps under `spectts`.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from evaluation import __version__
from evaluation.records.schema import run_lengths
from evaluation.running.prompting import prompt_ids
from model.checkpoint import Loaded
from model.contract import NO_CAP, Drafter, Request, StepOut
from model.engine.decode import check, generate
from model.engine.sequence import Generation, Sequence
from model.errors import UserError, first_line

MOST_LOGPROBS = 20
LARGEST_BODY = 64 << 20
"""Bytes of a request."""
INCOMPLETE = "\ufffd"
"""What a token that is a part of a character decodes to."""


class BadRequest(Exception):
    """The client's mistake; its message says what would be right."""


@dataclass(frozen=True)
class Asked:
    """One request, checked."""

    request: Request
    is_chat: bool
    is_streaming: bool
    top_logprobs: int = 0
    returns_ids: bool = False


@dataclass
class Logprobs:
    """What the target thought at every emitted token (`decode.Recording`)."""

    target_topk: int
    likeliest: list[list[tuple[int, float]]] = field(default_factory=list)

    def add(self, out: StepOut) -> None:
        assert out.target_topk is not None and out.target_logprobs is not None
        for node in out.path:
            tokens = out.target_topk[node, : self.target_topk].tolist()
            logprobs = out.target_logprobs[node, : self.target_topk].tolist()
            self.likeliest.append(list(zip(tokens, logprobs, strict=True)))


@dataclass
class Service:
    """The model and its drafter; requests wait for each other."""

    loaded: Loaded
    drafter: Drafter
    name: str
    """What the model is served as."""
    method: str
    max_nodes: int = NO_CAP
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, body: dict[str, Any], is_chat: bool) -> Asked:
        """Check a request's body; raises BadRequest."""
        if body.get("model") not in (None, self.name):
            raise BadRequest(f"the model here is '{self.name}', not '{body.get('model')}'")
        if int(_number(body, "n", 1, least=1)) != 1:
            raise BadRequest("n is 1: send one request a sample, each with its seed")
        seed = body.get("seed")
        request = Request(
            prompt_ids=self._prompt(body, is_chat),
            max_new_tokens=int(self._budget(body)),
            temperature=_number(body, "temperature", 1.0),
            sampling_top_k=max(0, int(_number(body, "top_k", 0, least=-1))),
            sampling_top_p=_number(body, "top_p", 1.0) or 1.0,
            seed=uuid.uuid4().int >> 66 if seed is None else int(_number(body, "seed", 0)),
            question_id="served",
            stop_ids=self.loaded.stop_ids,
        )
        try:
            check(self.loaded.model, request)
        except UserError as error:
            raise BadRequest(f"context: {error}") from None
        return Asked(
            request,
            is_chat,
            is_streaming=bool(body.get("stream")),
            top_logprobs=_top_logprobs(body, is_chat),
            returns_ids=bool(body.get("return_token_ids")),
        )

    def _prompt(self, body: dict[str, Any], is_chat: bool) -> list[int]:
        tokenizer = self.loaded.tokenizer
        if not is_chat:
            prompt = body.get("prompt")
            if isinstance(prompt, str):
                return tokenizer.encode(prompt, add_special_tokens=False)
            if isinstance(prompt, list) and prompt and all(type(i) is int for i in prompt):
                if max(prompt) >= self.loaded.model.vocab_size or min(prompt) < 0:
                    raise BadRequest(f"prompt: ids are 0 to {self.loaded.model.vocab_size - 1}")
                return prompt
            raise BadRequest("prompt is a text or a list of token ids")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
            raise BadRequest('messages is a list of {"role": "user", "content": "..."}')
        texts = [{"role": m["role"], "content": m["content"]} for m in messages]
        return prompt_ids(tokenizer, texts)

    def _budget(self, body: dict[str, Any]) -> float:
        for name in ("max_completion_tokens", "max_tokens"):
            if body.get(name) is not None:
                return _number(body, name, 0, least=1)
        return 1024

    def generate(
        self, asked: Asked, on_step: Callable[[Sequence], None] | None = None
    ) -> tuple[Generation, Logprobs | None]:
        """Generate one text; others wait."""
        with self.lock, torch.inference_mode():
            self.drafter.enter("question", uuid.uuid4().hex)
            self.drafter.enter("request", "served")
            model, top = self.loaded.model, asked.top_logprobs
            if model.device.type == "cuda":
                torch.cuda.set_device(model.device)  # every request has a thread of its own
            logprobs = Logprobs(top) if top else None
            generation = generate(
                model, self.drafter, asked.request, self.max_nodes, on_step, logprobs
            )
            return generation, logprobs

    def text(self, ids: list[int]) -> str:
        """Of emitted tokens, markers included, a stop token left out."""
        shown = ids[:-1] if ids and ids[-1] in self.loaded.stop_ids else ids
        text = self.loaded.tokenizer.decode(shown, skip_special_tokens=False)
        assert isinstance(text, str)
        return text


def _number(body: dict[str, Any], name: str, default: float, least: float = 0) -> float:
    value = body.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not value >= least or value == float("inf"):
        raise BadRequest(f"{name} is a number of at least {least:g}, not {value!r}")
    return value


def _is_message(message: Any) -> bool:
    fields = ("role", "content")
    return isinstance(message, dict) and all(isinstance(message.get(f), str) for f in fields)


def _top_logprobs(body: dict[str, Any], is_chat: bool) -> int:
    """How many of the likeliest tokens are told; 0: none."""
    if not is_chat or not body.get("logprobs"):
        return 0
    most = int(_number(body, "top_logprobs", 1))
    if most > MOST_LOGPROBS:
        raise BadRequest(f"top_logprobs is at most {MOST_LOGPROBS}")
    return max(1, most)


class Replies:
    """The JSON of one request's reply, whole or in pieces."""

    def __init__(self, service: Service, asked: Asked) -> None:
        self._service, self._asked = service, asked
        kind = "chat.completion" if asked.is_chat else "text_completion"
        prefix = "chatcmpl" if asked.is_chat else "cmpl"
        if asked.is_streaming and asked.is_chat:
            kind += ".chunk"
        self._common = {
            "id": f"{prefix}-{uuid.uuid4().hex[:16]}",
            "object": kind,
            "created": int(time.time()),
            "model": service.name,
        }
        self._told = 0
        self._text = ""

    def whole(self, generation: Generation, logprobs: Logprobs | None) -> dict[str, Any]:
        ids = generation.output_ids
        choice = self._choice(self._service.text(ids), ids, "message")
        choice["finish_reason"] = generation.finish_reason
        if logprobs:
            choice["logprobs"] = {"content": self._logprobs(logprobs)}
        return {**self._common, "choices": [choice], **self._end(generation)}

    def piece(self, ids: list[int], is_last: bool = False) -> dict[str, Any] | None:
        """What a step has brought; None where it brought nothing that can be shown."""
        text = self._service.text(ids)
        if text.endswith(INCOMPLETE) and not is_last:
            return None
        new_text, new_ids = text[len(self._text) :], ids[self._told :]
        self._text, self._told = text, len(ids)
        choice = self._choice(new_text, new_ids, "delta")
        return {**self._common, "choices": [choice]} if new_ids else None

    def last_pieces(
        self, generation: Generation, logprobs: Logprobs | None
    ) -> Iterator[dict[str, Any]]:
        """What is left of the text, why it ended, and the usage."""
        if piece := self.piece(generation.output_ids, is_last=True):
            yield piece
        choice = self._choice("", [], "delta")
        choice["finish_reason"] = generation.finish_reason
        if logprobs:
            choice["logprobs"] = {"content": self._logprobs(logprobs)}
        yield {**self._common, "choices": [choice]}
        yield {**self._common, "choices": [], **self._end(generation)}

    def _choice(self, text: str, ids: list[int], part: str) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": None}
        if self._asked.is_chat:
            choice[part] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        if self._asked.returns_ids:
            choice["token_ids"] = ids
        return choice

    def _end(self, generation: Generation) -> dict[str, Any]:
        """Usage, and what only we tell."""
        prompt, new = len(self._asked.request.prompt_ids), len(generation.output_ids)
        usage = {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
        steps = {
            "accept_lengths": generation.accept_lengths,
            "draft_lengths": generation.draft_lengths,
            "draft_source": run_lengths(generation.sources),
        }
        end: dict[str, Any] = {"usage": usage, "spectts": steps}
        if self._asked.returns_ids:
            end["prompt_token_ids"] = list(self._asked.request.prompt_ids)
        return end

    def _logprobs(self, logprobs: Logprobs) -> list[dict[str, Any]]:
        """Of every emitted token; nothing is known of the first, which no step yields."""
        positions: list[dict[str, Any]] = [{"token": "", "top_logprobs": []}]
        for likeliest in logprobs.likeliest:
            top = [{"token": str(token), "logprob": logprob} for token, logprob in likeliest]
            positions.append({"token": top[0]["token"], "top_logprobs": top})
        return positions


class Handler(BaseHTTPRequestHandler):
    """Routes; `server.service` answers."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a benchmark asks thousands of times."""

    def do_GET(self) -> None:
        service = self.server.service
        model = {"id": service.name, "object": "model", "owned_by": "spectts"}
        version = {"spectts": __version__, "method": service.method}
        pages: dict[str, Any] = {
            "/v1/models": {"object": "list", "data": [model]},
            "/version": {**version, "max_nodes": min(service.max_nodes, _nodes(service))},
            "/health": {"status": "ok"},
        }
        page = pages.get(self.path)
        if page is None:
            self._error(HTTPStatus.NOT_FOUND, f"no page {self.path}; there are {', '.join(pages)}")
        else:
            self._send(page)

    def do_POST(self) -> None:
        kinds = {"/v1/chat/completions": True, "/v1/completions": False}
        if self.path not in kinds:
            self._error(HTTPStatus.NOT_FOUND, f"no page {self.path}; there are {', '.join(kinds)}")
            return
        try:
            asked = self.server.service.asked(self._body(), kinds[self.path])
            self._answer(asked)
        except BadRequest as error:
            self._error(HTTPStatus.BAD_REQUEST, str(error))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client went away
        except Exception as error:  # the next request may work all the same
            said = f"{type(error).__name__}: {first_line(error)}"
            self._error(HTTPStatus.INTERNAL_SERVER_ERROR, said)

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            self.close_connection = True
            raise BadRequest(f"Content-Length is a number of at most {LARGEST_BODY}")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON: {error}") from None
        if not isinstance(body, dict):
            raise BadRequest("the body is a JSON object")
        return body

    def _answer(self, asked: Asked) -> None:
        service = self.server.service
        replies = Replies(service, asked)
        if not asked.is_streaming:
            self._send(replies.whole(*service.generate(asked)))
            return
        self.close_connection = True  # the end of the stream is the end of the connection
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

        def on_step(sequence: Sequence) -> None:
            if piece := replies.piece(sequence.ids):
                self._event(json.dumps(piece))

        try:
            generation, logprobs = service.generate(asked, on_step)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            self._event(json.dumps(_error_of(f"{type(error).__name__}: {first_line(error)}", 500)))
            return
        for piece in replies.last_pieces(generation, logprobs):
            self._event(json.dumps(piece))
        self._event("[DONE]")

    def _event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _send(self, page: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        content = json.dumps(page).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _error(self, status: HTTPStatus, message: str) -> None:
        self._send(_error_of(message, status), status)


def _error_of(message: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "code": int(code)}}


def _nodes(service: Service) -> int:
    return service.drafter.needs.max_nodes


class Server(ThreadingHTTPServer):
    """Listens; `serve_forever` and `shutdown` as in the standard library."""

    daemon_threads = True

    def __init__(self, service: Service, host: str, port: int) -> None:
        self.service = service
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port"
            ) from None
