"""Which tokens to propose to the decoder, from an earlier hypothesis of about the same audio.

Speculative decoding with a draft that costs nothing (Leviathan et al. 2023; Stern et al. 2018): the decoder checks all
proposed tokens in one pass and keeps the longest prefix that its own arg-max confirms, so the text never changes.
"""

from __future__ import annotations

from collections.abc import Sequence

_LOOK_BACK = 2
_LOOK_AHEAD = 8


class Draft:
    """A cursor over an earlier hypothesis that follows what the decoder accepts."""

    def __init__(self, tokens: Sequence[int], allowed: range, guess: int) -> None:
        """Takes any ids; those that no hypothesis can hold are left out. `guess` is proposed after the last one."""
        self._tokens = [token for token in tokens if token in allowed]
        self._guess = guess
        self._next = 0

    def proposal(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next."""
        return (self._tokens[self._next :] or [self._guess])[: max(limit, 0)]

    def advance(self, confirmed: int, correction: int) -> None:
        """Moves past `confirmed` proposed tokens and past `correction`, which the decoder chose itself.

        The correction is looked up near the cursor, for words that were inserted or dropped; if it is not there it is
        taken as the replacement of one token.
        """
        self._next += confirmed
        start = max(self._next - _LOOK_BACK, 0)
        nearby = self._tokens[self._next : self._next + _LOOK_AHEAD]
        if correction in nearby:
            self._next += nearby.index(correction) + 1
        elif correction in self._tokens[start : self._next]:
            self._next = start + self._tokens[start : self._next].index(correction) + 1
        else:
            self._next = min(self._next + 1, len(self._tokens))
