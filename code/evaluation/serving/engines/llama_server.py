"""llama.cpp's llama-server: `timings` beside every reply.

It counts drafted and accepted tokens, and no steps: forwards are what the tokens leave.
"""

from __future__ import annotations

from typing import Any

from evaluation.serving.client import Client, Reply
from evaluation.serving.engines import About, Engine, Steps, forwards_of


class LlamaServer(Engine):
    name = "llama_server"
    conversion = "target forwards = new tokens - 1 - accepted draft tokens"

    def about(self, client: Client) -> About | None:
        told = client.get("/props")
        if not isinstance(told, dict) or "default_generation_settings" not in told:
            return None
        defaults = told["default_generation_settings"]
        params = defaults.get("params", defaults)
        settings = {}
        for name, value in params.items():
            if name.startswith("speculative"):
                settings[name] = value
        return About(str(told.get("build_info", "")), settings)

    def asked(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "timings_per_token": True}

    def steps(self, reply: Reply) -> Steps:
        timings = reply.extra.get("timings") or {}
        if "draft_n_accepted" not in timings or reply.new_tokens is None:
            return Steps()
        return Steps(forwards_of(reply.new_tokens, int(timings["draft_n_accepted"])))


ENGINE = LlamaServer
