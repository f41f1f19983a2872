"""DeepSeek-R1 and its distillations: the chat template opens `<think>` in the prompt."""

from model.families import Family, token_id

FAMILY = Family(
    name="deepseek_r1",
    recognise=lambda config, tokenizer: (
        token_id(tokenizer, "<｜Assistant｜>") is not None
        and token_id(tokenizer, "</think>") is not None
    ),
    end_think="</think>",
    closing="\n\n</think>\n\n",
    end_tokens=("<｜end▁of▁sentence｜>", "<|eot_id|>"),
)
