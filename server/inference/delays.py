"""How late answers have been lately."""

from __future__ import annotations

from collections import deque

MEMORY_S = 30.0
MAX_KEPT = 512


class DelayEstimate:
    """The 95th percentile of the delays of the last 30 s."""

    def __init__(self) -> None:
        self._delays: deque[tuple[float, float]] = deque(maxlen=MAX_KEPT)

    def add(self, delay: float, now: float) -> None:
        """Takes the delay of what was answered at `now`; seconds."""
        self._delays.append((now, delay))

    def p95(self, now: float) -> float:
        """Seconds; 0 if there was none."""
        while self._delays and self._delays[0][0] < now - MEMORY_S:
            self._delays.popleft()
        if not self._delays:
            return 0.0
        ordered = sorted(delay for _, delay in self._delays)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
