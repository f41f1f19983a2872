"""SGLang (0.5.20 and newer): `return_spec_tokens_details` in the request, details beside the reply.

Its accept length is completion tokens over verify steps, with the prefill's token; ours leaves
that token out.
"""

from __future__ import annotations

from typing import Any

from evaluation.serving.client import Client, Reply
from evaluation.serving.engines import ALL_TOKENS, About, Engine, Steps

SETTINGS = "speculative"


class Sglang(Engine):
    name = "sglang"
    conversion = (
        "target forwards = verify steps as SGLang counts them; its accept length counts the"
        " prefill's token too, ours does not"
    )

    def about(self, client: Client) -> About | None:
        told = client.get("/server_info") or client.get("/get_server_info")
        if not isinstance(told, dict) or "version" not in told:
            return None
        settings = {}
        for name, value in told.items():
            if name.startswith(SETTINGS) and value is not None:
                settings[name] = value
        return About(str(told["version"]), settings)

    def asked(self, body: dict[str, Any]) -> dict[str, Any]:
        told = {"return_spec_tokens_details": True, "return_output_ids_in_sglext": True}
        return {**ALL_TOKENS, **body, **told, "skip_special_tokens": False}

    def token_ids(self, reply: Reply) -> list[int]:
        ids = (reply.extra.get("sglext") or {}).get("output_ids") or [[]]
        return list(ids[0])

    def steps(self, reply: Reply) -> Steps:
        details = (reply.extra.get("sglext") or {}).get("spec_tokens_details")
        details = details or reply.extra.get("meta_info") or {}
        verified = details.get("spec_verify_ct")
        return Steps(int(verified)) if verified else Steps()


ENGINE = Sglang
