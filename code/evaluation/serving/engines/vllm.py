"""vLLM: per-request metrics where the server was started with them, counters of the whole server.

`--per-request-spec-decode-metrics summary` or `detailed` puts `metrics.speculative_decoding` into
every reply (into a stream's last chunk). Its mean length counts steps that verified a draft only;
ours counts every forward behind the prefill, so it is made from tokens and accepted draft tokens.
"""

from __future__ import annotations

from typing import Any

from evaluation.serving.client import Client, Reply
from evaluation.serving.engines import (
    ALL_TOKENS,
    About,
    Engine,
    Pages,
    Steps,
    forwards_of,
)

COUNTERS = {
    "drafts": "vllm:spec_decode_num_drafts_total",
    "drafted": "vllm:spec_decode_num_draft_tokens_total",
    "accepted": "vllm:spec_decode_num_accepted_tokens_total",
    "tokens": "vllm:generation_tokens_total",
    "requests": "vllm:request_success_total",
}
PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
OWNER = "vllm"


class Vllm(Engine):
    name = "vllm"
    conversion = (
        "target forwards = new tokens - 1 - accepted draft tokens, and at least the steps that"
        " verified a draft; vLLM's own mean acceptance length leaves steps without a draft out"
    )

    def about(self, client: Client) -> About | None:
        models = client.get("/v1/models")
        owners = {model.get("owned_by") for model in models.get("data", [])}
        version = client.get("/version")
        if OWNER not in owners or not isinstance(version, dict):
            return None
        return About(str(version.get("version", "")))

    def asked(self, body: dict[str, Any]) -> dict[str, Any]:
        # without the markers of thinking nobody knows where the answer begins
        return {**ALL_TOKENS, **body, "return_token_ids": True, "skip_special_tokens": False}

    def steps(self, reply: Reply) -> Steps:
        told = (reply.extra.get("metrics") or {}).get("speculative_decoding")
        if not told or reply.new_tokens is None:
            return Steps()
        least = int(told["num_spec_steps"])
        accepted = int(told["num_accepted_draft_tokens"])
        return Steps(forwards_of(reply.new_tokens, accepted, least))

    def counters(self, client: Pages) -> dict[str, float]:
        text = client.get("/metrics")
        return read_counters(text) if isinstance(text, str) else {}

    def counted(self, difference: dict[str, float]) -> Steps:
        if not {"accepted", "tokens", "requests"} <= set(difference):
            return Steps()
        # of every request the first token is the prefill's
        behind_prefill = difference["tokens"] - difference["requests"] + 1
        return Steps(forwards_of(int(behind_prefill), int(difference["accepted"])))


def read_counters(text: str) -> dict[str, float]:
    """Of Prometheus' text: our names, labels added up; accepted by position as `accepted_0`..."""
    by_metric = {metric: name for name, metric in COUNTERS.items()}
    counts: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        series, _, value = line.rpartition(" ")
        metric, _, labels = series.partition("{")
        name = by_metric.get(metric)
        if metric == PER_POSITION:
            position = labels.split('position="')[1].split('"')[0]
            name = f"accepted_{position}"
        if name:
            counts[name] = counts.get(name, 0.0) + float(value)
    return counts


ENGINE = Vllm
