"""The mini family in `data/mini/`, marked as such in its own config."""

from model.families import Family

FAMILY = Family(
    name="mini",
    recognise=lambda config, tokenizer: getattr(config, "spectts_family", None) == "mini",
    end_think="</think>",
    closing="\n\nI have to answer now.\n</think>\n\n",
)
