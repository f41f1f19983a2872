"""The one exception for what a user can mend: its text is all they see, and the exit code is 2."""


class UserError(Exception):
    """Says what is wrong, where, what would be right and, where there is one, what to run."""


def first_line(error: BaseException, most: int = 300) -> str:
    """The first line of an error's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__


def printable(text: str) -> str:
    """The text for a terminal: control characters, which could steer it, as escapes."""
    shown = []
    for character in text:
        is_safe = character.isprintable() or character in "\n\t"
        shown.append(character if is_safe else character.encode("unicode_escape").decode())
    return "".join(shown)
