"""A level meter."""

from __future__ import annotations

import math

import numpy as np

FLOOR_DB = -60.0
FALL_DB_PER_S = 40.0
CELLS = 12
STEPS = " ▏▎▍▌▋▊▉█"


class Level:
    """The level of 16-bit audio in dB of full scale: it rises at once and falls slowly, as meters do."""

    def __init__(self) -> None:
        """Begin in silence."""
        self.db = FLOOR_DB
        self._at = 0.0

    def add(self, pcm: bytes, now: float) -> None:
        """Take a piece of `pcm_s16le`; `now` is seconds on a monotonic clock."""
        samples = np.frombuffer(pcm, "<i2", count=len(pcm) // 2).astype(np.float64)
        power = float(np.mean(samples * samples)) if len(samples) else 0.0
        loud = 10 * math.log10(power / 32768**2) if power > 0 else FLOOR_DB
        fallen = self.db - FALL_DB_PER_S * max(0.0, now - self._at)
        self.db = min(0.0, max(FLOOR_DB, loud, fallen))
        self._at = now

    def bar(self, cells: int = CELLS) -> str:
        """Return the meter as a bar of `cells` characters."""
        eighths = round((self.db - FLOOR_DB) / -FLOOR_DB * cells * 8)
        full, part = divmod(eighths, 8)
        return ("█" * full + (STEPS[part] if full < cells else "")).ljust(cells)[:cells]
