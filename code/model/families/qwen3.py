"""Qwen3: the model writes `<think>` itself; the closing words are those of its model card."""

from model.families import Family, token_id

FAMILY = Family(
    name="qwen3",
    recognise=lambda config, tokenizer: (
        config.model_type == "qwen3" and token_id(tokenizer, "</think>") is not None
    ),
    end_think="</think>",
    closing=(
        "Considering the limited time by the user, I have to give the solution based on the"
        " thinking directly now.\n</think>.\n\n"
    ),
    end_tokens=("<|im_end|>", "<|endoftext|>"),
)
