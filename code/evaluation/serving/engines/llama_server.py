"""llama.cpp's llama-server: `timings` beside every reply.

It counts drafted and accepted tokens, and no steps: forwards are what the tokens leave. Tokens
accepted behind the end of a text count too, about one in half of the texts. A reply for which
nothing was drafted tells nothing.
"""

from __future__ import annotations

from typing import Any

from evaluation.serving.client import Client, Reply
from evaluation.serving.engines import About, Engine, Steps, forwards_of

ALL_TOKENS = {"top_k": 0, "min_p": 0.0}
"""Sampling from all tokens: its own defaults are the 40 likeliest above a twentieth of the best."""


class LlamaServer(Engine):
    name = "llama_server"
    conversion = "target forwards = new tokens - 1 - accepted draft tokens"

    def about(self, client: Client) -> About | None:
        told = client.get("/props")
        if not isinstance(told, dict) or "default_generation_settings" not in told:
            return None
        settings = {"model": told.get("model_ftype")}
        # the page's own "speculative.types" says "none" whatever drafts
        slots = client.get("/slots")
        if isinstance(slots, list) and slots:
            settings["speculative"] = any(slot.get("speculative") for slot in slots)
        return About(str(told.get("build_info", "")), settings)

    def asked(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**ALL_TOKENS, **body, "cache_prompt": False}

    def steps(self, reply: Reply) -> Steps:
        timings = reply.extra.get("timings") or {}
        if "draft_n_accepted" not in timings or reply.new_tokens is None:
            return Steps()
        return Steps(forwards_of(reply.new_tokens, int(timings["draft_n_accepted"])))


ENGINE = LlamaServer
