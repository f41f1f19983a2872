"""Any server that speaks the protocol: tokens and times, nothing of acceptance."""

from __future__ import annotations

from evaluation.serving.client import Client
from evaluation.serving.engines import About, Engine


class OpenAI(Engine):
    name = "openai"
    conversion = "the server tells nothing of acceptance"

    def about(self, client: Client) -> About:
        return About()


ENGINE = OpenAI
