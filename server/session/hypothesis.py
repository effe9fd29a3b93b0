"""From successive hypotheses of one segment to partials whose beginning stays as it is.

A unit (word) is stable once two hypotheses in a row agree on it and on all before it: the local agreement policy of
Liu et al., "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial Hypothesis Selection"
(Interspeech 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

from server.session.text import bare, join, units

MAX_ALIGNED = 64
"""Units of the stable text that a deviating hypothesis is aligned with; what lies before matters no more."""


class StablePrefix:
    """The bare text of one segment as it grows: a stable part that never changes and a tail that may."""

    def __init__(self) -> None:
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

    def update(self, hypothesis: str, *, whole: bool = True) -> None:
        """Takes the next hypothesis: for the whole segment, or only for the audio behind what was committed."""
        new = self._units(hypothesis, whole)
        agreed = _common(self._last, new)
        self._last = new
        self._shown = _continue(self._agreed, new)
        if agreed > len(self._agreed) and new[: len(self._agreed)] == self._agreed:
            self._agreed = new[:agreed]

    def commit(self, hypothesis: str, *, whole: bool = True) -> None:
        """Takes the last hypothesis for a stretch of audio that later windows will not cover."""
        self._shown = _continue(self._agreed, self._units(hypothesis, whole))
        self._agreed = self._committed = self._last = self._shown

    def _units(self, hypothesis: str, whole: bool) -> list[str]:
        if whole:
            return units(bare(hypothesis))
        # Units carry the space before them: splitting the joined text keeps that right at the seam.
        committed = "".join(self._committed)
        return self._committed + units(join(committed, bare(hypothesis)))[len(self._committed) :]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _continue(agreed: Sequence[str], new: Sequence[str]) -> list[str]:
    """What `new` adds behind the stable units, where it may deviate from them."""
    if list(new[: len(agreed)]) == list(agreed):
        return list(new)
    skip = max(0, len(agreed) - MAX_ALIGNED)
    ends = _alignment_costs(agreed[skip:], new[skip : len(agreed) + MAX_ALIGNED])
    # Among the cheapest the longest: a word said twice is worse than one that waits for the final.
    best = min(range(len(ends)), key=lambda end: (ends[end], -end))
    kept = "".join(agreed)
    return [*agreed, *units(join(kept, "".join(new[skip + best :]).lstrip()))[len(agreed) :]]


def _alignment_costs(stable: Sequence[str], new: Sequence[str]) -> list[int]:
    """Edit distance between `stable` and each prefix of `new`, shape (len(new) + 1,)."""
    row = list(range(len(new) + 1))
    for i, unit in enumerate(stable, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(new, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (unit != other))
    return row
