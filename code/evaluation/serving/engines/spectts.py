"""Our own server (`spectts serve`): every step, as our records have them."""

from __future__ import annotations

from typing import Any

from evaluation.serving.client import Client, Reply
from evaluation.serving.engines import About, Engine, Steps

OWNER = "spectts"


class Spectts(Engine):
    name = "spectts"
    conversion = "every step is told, as in our own records"

    def about(self, client: Client) -> About | None:
        told = client.get("/version")
        if not isinstance(told, dict) or OWNER not in told:
            return None
        return About(
            str(told[OWNER]), {"method": told.get("method"), "max_nodes": told.get("max_nodes")}
        )

    def asked(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "return_token_ids": True}

    def steps(self, reply: Reply) -> Steps:
        told = reply.extra.get(OWNER)
        if not told:
            return Steps()
        sources: list[str] = []
        for name, count in told["draft_source"]:
            sources += [name] * count
        return Steps(
            emitted=tuple(told["accept_lengths"]),
            drafted=tuple(told["draft_lengths"]),
            sources=tuple(sources),
        )


ENGINE = Spectts
