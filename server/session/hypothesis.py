"""From successive hypotheses of one segment to partials whose beginning stays as it is.

A unit (word) is stable once two hypotheses in a row agree on it and on all before it: the local agreement policy of
Liu et al., "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial Hypothesis Selection"
(Interspeech 2020). Where a later hypothesis deviates from what is stable already, that stays as it is, and the two need
only agree on what follows it: else one wrong word at the beginning would keep a whole segment back. Behind the stable
units only those are shown that the model is sure of: the end of a window often cuts a word in two, and what a model
makes of half a word is a flicker to the reader.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.session.text import bare, join, units

MAX_ALIGNED = 64
"""Units of the stable text that a deviating hypothesis is aligned with; what lies before matters no more."""


class StablePrefix:
    """The bare text of one segment as it grows: a stable part that never changes and a tail that may."""

    def __init__(self, sure: float, sure_last: float, hold_back: int) -> None:
        """Shows units up to the first whose confidence is below `sure`, or `sure_last` for the last word, which the
        window's end may have cut; where a model gives no confidences, all but the last `hold_back`."""
        self._sure = sure
        self._sure_last = sure_last
        self._hold_back = hold_back
        self._committed: list[str] = []
        self._agreed: list[str] = []
        self._last: list[str] = []
        self._shown: list[str] = []

    @property
    def text(self) -> str:
        """Everything shown so far."""
        return "".join(self._shown)

    @property
    def stable(self) -> int:
        """How many leading characters of `text` will not change."""
        return len("".join(self._agreed))

    def update(
        self,
        hypothesis: str,
        words: NDArray[np.float32] | None = None,
        *,
        whole: bool = True,
        complete: bool = False,
    ) -> None:
        """Takes the next hypothesis.

        Args:
            hypothesis: in the model's own casing and marks.
            words: the model's confidence in each of the words that it splits into at white space, shape (n,).
            whole: it is of the whole segment, and not only of the audio behind what was committed.
            complete: its audio ends in silence, so that no word of it is cut in two.
        """
        new = self._units(hypothesis, whole)
        begin, begin_last = self._end_of_stable(new), self._end_of_stable(self._last)
        agreed = begin + _common(self._last[begin_last:], new[begin:])
        sure = len(new) if complete else self._sure_end(hypothesis, words, new, begin)
        before = self._agreed
        self._agreed = _continue(before, new[:agreed], begin)
        self._shown = _continue(before, new[: max(agreed, sure)], begin)
        self._last = new

    def _end_of_stable(self, new: Sequence[str]) -> int:
        """How many of the units `new` say what is stable, if in other words perhaps."""
        known = len(self._agreed)
        return known if list(new[:known]) == self._agreed else _aligned_end(self._agreed, new)

    def _sure_end(self, hypothesis: str, words: NDArray[np.float32] | None, new: Sequence[str], begin: int) -> int:
        """How many of the units `new` may be shown; what the model makes of the first `begin` is of no interest."""
        spoken = hypothesis.split()
        if words is None or len(words) != len(spoken):
            return max(0, len(new) - self._hold_back)
        at = end = len(new)
        least = self._sure_last
        for word, confidence in zip(reversed(spoken), reversed(words.tolist()), strict=True):
            at -= len(units(bare(word)))
            if at < begin:
                break
            if confidence < least:
                end = at
            least = self._sure
        return end

    def commit(self, hypothesis: str, *, whole: bool = True) -> None:
        """Takes the last hypothesis for a stretch of audio that later windows will not cover.

        It is as good as a model's view of that audio gets, so all of it is shown. What is stable already may reach
        beyond that stretch: then only its beginning is committed.
        """
        heard = self._units(hypothesis, whole)
        covered = _aligned_end(heard, self._agreed)
        if covered < len(self._agreed):
            self._committed = self._agreed[:covered]
            return
        self._shown = _continue(self._agreed, heard, self._end_of_stable(heard))
        self._agreed = self._committed = self._last = self._shown

    def _units(self, hypothesis: str, whole: bool) -> list[str]:
        if whole:
            return units(bare(hypothesis))
        # Units carry the space before them: splitting the joined text keeps that right at the seam.
        committed = "".join(self._committed)
        return self._committed + units(join(committed, bare(hypothesis)))[len(self._committed) :]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(_spoken(one), _spoken(other), strict=False):
        if a != b:
            break
        count += 1
    return count


def _spoken(some: Sequence[str]) -> list[str]:
    """Units without the space that those behind the first carry."""
    return [unit.lstrip() for unit in some]


def _continue(stable: Sequence[str], new: Sequence[str], begin: int) -> list[str]:
    """The stable units and behind them those of `new` from `begin` on."""
    if list(new[:begin]) == list(stable):
        return list(new)
    kept, rest = "".join(stable), "".join(new[begin:])
    return [*stable, *units(join(kept, rest.lstrip()))[len(stable) :]]


def _aligned_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many leading units of `other` say what `one` says: the cheapest alignment's, the longest of equals, since
    a word said twice is worse than one that waits for the final."""
    skip = max(0, min(len(one), len(other)) - MAX_ALIGNED)
    ends = _alignment_costs(_spoken(one[skip:]), _spoken(other[skip : len(one) + MAX_ALIGNED]))
    return skip + min(range(len(ends)), key=lambda end: (ends[end], -end))


def _alignment_costs(stable: Sequence[str], new: Sequence[str]) -> list[int]:
    """Edit distance between `stable` and each prefix of `new`, shape (len(new) + 1,)."""
    row = list(range(len(new) + 1))
    for i, unit in enumerate(stable, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(new, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (unit != other))
    return row
