"""An online suffix automaton with a matcher: the longest suffix of the text so far that occurred
before.

Blumer et al. 1985; as a drafter's memory in SAM-Decoding (Hu et al. 2024). Amortised O(1) a token;
at most 2n states."""


class SuffixAutomaton:
    """Text is fed token by token; `match_length` and `match_end` then describe the longest earlier
    occurrence.

    `match_end` is the position of the earliest end of that occurrence: `text[match_end + 1:]`
    followed it."""

    def __init__(self) -> None:
        self.text: list[int] = []
        self.match_length = 0
        self._state = 0  # where the matcher stands
        self._last = 0
        self._next: list[dict[int, int]] = [{}]
        self._link = [-1]
        self._length = [0]
        self._first_end = [-1]
        self._texts = 0

    @property
    def match_end(self) -> int:
        return self._first_end[self._state]

    def __len__(self) -> int:
        return len(self.text)

    def feed(self, token: int) -> None:
        """Match `token` against the text before it, then add it."""
        self._advance(token)
        self._extend(token)

    def separate(self) -> None:
        """Begin another text: no match and no draft runs from one text into the next."""
        self._texts += 1
        self.feed(-1 - self._texts)  # a token of its own, which no text holds

    def restart(self) -> None:
        """Let the matcher forget where it stands (the text stays)."""
        self._state = self.match_length = 0

    def continuation(self, tokens: int) -> list[int]:
        """The up to `tokens` tokens that followed the longest earlier match."""
        if not self.match_length:
            return []
        return self.text[self.match_end + 1 : self.match_end + 1 + tokens]

    def end_with_room(self, tokens: int, shortest: int) -> int:
        """Where the longest match, of at least `shortest`, ended that `tokens` tokens follow.

        Shorter suffixes occur earlier, so climbing the links finds more text to copy; where no
        match of that length has enough, it is the end of the longest match.
        """
        state, length = self._state, self.match_length
        while length >= shortest:
            if len(self.text) - 1 - self._first_end[state] >= tokens:
                return self._first_end[state]
            state = self._link[state]
            length = self._length[state] if state > 0 else 0
        return self.match_end

    def _advance(self, token: int) -> None:
        state, length, link = self._state, self.match_length, self._link
        # a clone made since may hold the matched string now: it is the link whose length still
        # covers the match
        while state and length <= self._length[link[state]]:
            state = link[state]
        while state and token not in self._next[state]:
            state = link[state]
            length = self._length[state]
        following = self._next[state].get(token)
        if following is None:
            self._state, self.match_length = 0, 0
        else:
            self._state, self.match_length = following, length + 1

    def _extend(self, token: int) -> None:
        nexts, link, lengths = self._next, self._link, self._length
        self.text.append(token)
        new = self._new_state({}, 0, lengths[self._last] + 1, len(self.text) - 1)
        state, self._last = self._last, new
        while state >= 0 and token not in nexts[state]:
            nexts[state][token] = new
            state = link[state]
        if state < 0:
            return
        following = nexts[state][token]
        if lengths[following] != lengths[state] + 1:
            following = self._cloned(following, state, token)
        link[new] = following

    def _cloned(self, original: int, state: int, token: int) -> int:
        """Split off the shorter strings of `original`, which `token` leads to from `state` up."""
        nexts, link = self._next, self._link
        clone = self._new_state(
            nexts=dict(nexts[original]),
            link=link[original],
            length=self._length[state] + 1,
            first_end=self._first_end[original],
        )
        while state >= 0 and nexts[state].get(token) == original:
            nexts[state][token] = clone
            state = link[state]
        link[original] = clone
        return clone

    def _new_state(self, nexts: dict[int, int], link: int, length: int, first_end: int) -> int:
        self._next.append(nexts)
        self._link.append(link)
        self._length.append(length)
        self._first_end.append(first_end)
        return len(self._link) - 1
