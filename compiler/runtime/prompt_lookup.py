"""Drafts out of the text itself: what followed the last tokens when they stood there before.

    text  .. a b c d e f .. a b c        ->  d e f        the latest place of the last three tokens, in a table

Costs nothing, and guesses well where a text repeats itself: names in code, an answer that quotes its question (after
Saxena, prompt lookup decoding, 2023). It is used where its last guesses stood as often as the draft model's; a guess
that was not used is compared with what came, so that it is known without a round.
"""

from __future__ import annotations

from collections.abc import Sequence

GRAM = 3  # tokens that have to be equal
_LONG = 12  # equal tokens from which a place is trusted whatever stood before
_KEPT = 0.7  # weight of what was accepted before, beside the last round


class PromptLookup:
    """The table of one text, which grows; and how many tokens of either source stand, on average."""

    def __init__(self) -> None:
        self._behind: dict[tuple[int, ...], int] = {}  # three tokens -> where the latest of them end
        self._done = GRAM
        self._stood: dict[bool, float] = {}  # of a round, by whether the guess is from here
        self._unused: list[int] = []

    def guess(self, text: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that may follow; none where nothing is found."""
        at = self._place(text)
        guess: list[int] = []
        while at is not None and len(guess) < count:
            ahead = at + len(guess)
            guess.append(text[ahead] if ahead < len(text) else guess[ahead - len(text)])  # a text that goes round
        return guess

    def propose(self, text: Sequence[int], count: int) -> list[int]:
        """As `guess`, and none where the draft model does better."""
        guess, at = self.guess(text, count), self._place(text)
        good = self._stood.get(True, -1.0) >= self._stood.get(False, 0.0)
        if at is None or good or _alike(text, at, _LONG):
            self._unused = []
            return guess
        self._unused = guess
        return []

    def _place(self, text: Sequence[int]) -> int | None:
        """Where the last tokens of the text stood before, their end."""
        for end in range(self._done, len(text)):
            self._behind[tuple(text[end - GRAM : end])] = end
        self._done = max(self._done, len(text))
        return self._behind.get(tuple(text[-GRAM:])) if len(text) > GRAM else None

    def told(self, own: bool, accepted: int, new: Sequence[int]) -> None:
        """What became of a round: `accepted` proposals stood (`own`: from here), and the text went on with `new`."""
        self._note(own, accepted)
        if self._unused:
            pairs = enumerate(zip(self._unused, new, strict=False))
            self._note(True, next((at for at, (a, b) in pairs if a != b), min(len(self._unused), len(new))))

    def _note(self, own: bool, accepted: int) -> None:
        self._stood[own] = _KEPT * self._stood.get(own, accepted) + (1 - _KEPT) * accepted


def _alike(text: Sequence[int], at: int, count: int) -> bool:
    """Whether the `count` tokens before `at` are the last ones of the text."""
    return at >= count and list(text[at - count : at]) == list(text[-count:])
