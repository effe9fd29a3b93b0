"""When each sample arrived, for the latency clocks."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

MAX_ENTRIES = 4096
"""About a minute and a half of 20 ms frames; older samples count as arrived with the oldest that is known."""


class Arrivals:
    """Arrival times by input offset."""

    def __init__(self) -> None:
        self._ends: deque[int] = deque(maxlen=MAX_ENTRIES)
        self._times: deque[float] = deque(maxlen=MAX_ENTRIES)
        self._covered = 0

    def add(self, end: int, now: float) -> None:
        """Notes that the samples up to offset `end` are here."""
        self._ends.append(end)
        self._times.append(now)

    def at(self, offset: int, default: float) -> float:
        """When the sample at `offset` arrived; `default` where nothing is known of it."""
        position = bisect_right(self._ends, offset)
        return self._times[position] if position < len(self._times) else default

    def cover(self, offset: int) -> None:
        """Notes that an answered window of the open segment reached up to `offset`."""
        self._covered = offset

    def uncovered(self, offset: int) -> int:
        """`offset`, or where the first sample after it is that no window has covered: what follows a cut in the midst
        of speech was in the windows before it."""
        return max(offset, self._covered)
