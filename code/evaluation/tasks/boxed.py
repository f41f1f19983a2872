"""Finding `\\boxed{...}` in an answer, nested braces included."""


def last_boxed(text: str) -> str | None:
    """The content of the last complete `\\boxed{}` (or `\\fbox{}`), or None."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    while start >= 0:
        begin = text.index("{", start) + 1
        depth = 1
        for i in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                return text[begin:i].strip()
        start = max(text.rfind("\\boxed{", 0, start), text.rfind("\\fbox{", 0, start))
    return None
