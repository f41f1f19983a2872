"""Any other causal language model: no thinking markers."""

from model.families import Family

FAMILY = Family("default", lambda config, tokenizer: False, end_tokens=("<|eot_id|>", "<|im_end|>"))
