"""Which tokens to propose to the decoder, from an earlier hypothesis of about the same audio.

Speculative decoding with a draft that costs nothing (Leviathan et al. 2023; Stern et al. 2018): the decoder checks all
proposed tokens in one pass and keeps the longest prefix that its own arg-max confirms, so the text never changes. After
a mismatch the place to go on from is looked for by what was decoded last, as prompt lookup does (Saxena 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

_LOOK_BACK = 2
_LOOK_AHEAD = 8
_CONTEXT = 4
"""So many tokens tell places of the draft apart."""
_REACH = 8
"""So many tokens are proposed after a mismatch: where there is one there are more, and those behind it cost time."""


class Draft:
    """A cursor over an earlier hypothesis that follows what the decoder accepts."""

    def __init__(self, tokens: Sequence[int], allowed: range, guess: int) -> None:
        """Takes any ids; those that no hypothesis can hold are left out. `guess` is proposed after the last one."""
        self._tokens = [token for token in tokens if token in allowed]
        self._guess = guess
        self._next = 0
        self._reach = max(len(self._tokens), 1)

    def proposal(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next."""
        return (self._tokens[self._next :] or [self._guess])[: max(min(limit, self._reach), 0)]

    def advance(self, confirmed: int, decoded: Sequence[int]) -> None:
        """Moves past `confirmed` proposed tokens and past the last one of `decoded`, which the decoder chose itself.

        Words may have been inserted, dropped or spelt in another number of tokens. So that token is looked up, near the
        cursor, and anywhere if there is no other like it or the one before it fits, too. If it is not there it is taken
        as the replacement of one token.
        """
        here = self._next + confirmed
        self._reach = max(_REACH, 2 * confirmed)
        places = [at for at, token in enumerate(self._tokens) if token == decoded[-1]]
        best, found = 0, here + 1
        for at in places:
            score = self._agreement(at, decoded)
            is_near = here - _LOOK_BACK <= at < here + _LOOK_AHEAD
            if score == 1 and not is_near and len(places) > 1:
                continue
            if (score, -abs(at - here)) > (best, -abs(found - 1 - here)):
                best, found = score, at + 1
        self._next = min(found, len(self._tokens))

    def _agreement(self, at: int, decoded: Sequence[int]) -> int:
        """How many tokens up to `at` are those that were decoded last."""
        count = 0
        while count < min(_CONTEXT, len(decoded), at + 1) and self._tokens[at - count] == decoded[-1 - count]:
            count += 1
        return count
