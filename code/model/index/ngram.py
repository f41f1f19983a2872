"""First occurrence of every n-gram of a growing token list: O(1) a token and a lookup."""


class NgramIndex:
    """Remembers, for n = 1..`longest`, where each n-gram of `text` ended first."""

    def __init__(self, longest: int) -> None:
        self.text: list[int] = []
        self._longest = longest
        self._ends: dict[tuple[int, ...], int] = {}

    def feed(self, token: int) -> None:
        text = self.text
        text.append(token)
        for n in range(1, min(self._longest, len(text)) + 1):
            self._ends.setdefault(tuple(text[-n:]), len(text) - 1)

    def first_end(self, n: int) -> int | None:
        """Where the last n tokens first ended, or None where that is the end of the text itself."""
        text = self.text
        if not 0 < n < len(text):
            return None
        end = self._ends[tuple(text[-n:])]
        return end if end < len(text) - 1 else None
