"""vLLM's Python API: `LLM.chat` in this process, in the environment vLLM is installed in."""

from __future__ import annotations

from typing import Any

from evaluation.serving.client import Reply
from evaluation.serving.engines import About
from evaluation.serving.libraries import Library
from model.errors import UserError, first_line

SPECULATION = "speculative_config"


class VllmLibrary(Library):
    engine = "vllm"

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        try:
            import vllm
        except ImportError:
            raise UserError(
                "vLLM is not installed in this environment; run this with the Python of one where"
                " it is, our code on PYTHONPATH"
            ) from None
        self._vllm, self._options = vllm, options
        told = {"per_request_spec_decode_metrics": "detailed"} if options.get(SPECULATION) else {}
        try:
            # without its statistics there are neither times nor acceptance
            self._llm = vllm.LLM(model=model, disable_log_stats=False, **told, **options)
        except Exception as error:
            raise UserError(f"vLLM cannot load {model}: {first_line(error)}") from None
        super().__init__(model, options)

    def about(self) -> About:
        return About(self._vllm.__version__, dict(self._options.get(SPECULATION) or {}))

    def answer(self, bodies: list[dict[str, Any]]) -> list[Reply]:
        conversations = [body["messages"] for body in bodies]
        params = [self._params(body) for body in bodies]
        outputs = self._llm.chat(conversations, params, use_tqdm=False)
        return [_reply(output) for output in outputs]

    def _params(self, body: dict[str, Any]) -> Any:
        return self._vllm.SamplingParams(
            temperature=body["temperature"],
            top_p=body.get("top_p", 1.0),
            top_k=body["top_k"],
            min_p=body["min_p"],
            seed=body["seed"],
            max_tokens=body["max_tokens"],
            skip_special_tokens=False,
        )


def _reply(output: Any) -> Reply:
    """Of vLLM's RequestOutput."""
    (made,) = output.outputs
    spec = getattr(made, "spec_decode_metrics", None)
    told = {"metrics": {"speculative_decoding": spec.to_dict()}} if spec else {}
    return Reply(
        text=made.text,
        finish_reason=made.finish_reason or "",
        prompt_tokens=len(output.prompt_token_ids),
        new_tokens=len(made.token_ids),
        token_ids=list(made.token_ids),
        prompt_ids=list(output.prompt_token_ids),
        first_token=getattr(output.metrics, "first_token_latency", None),
        extra=told,
    )


LIBRARY = VllmLibrary
