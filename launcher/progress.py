"""What set-up says while it works: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

BAR_WIDTH = 28
TERMINAL_INTERVAL_S = 0.1
LINE_INTERVAL_S = 10.0


@dataclass(slots=True)
class Reporter:
    """Tells the reader what is being done.

    Attributes:
        stream: where to write.
        quiet: say nothing but what `say` is given.
    """

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    quiet: bool = False

    def say(self, text: str) -> None:
        """Writes one line."""
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def step(self, text: str) -> None:
        """Writes one line about work that begins now."""
        if not self.quiet:
            self.say(f"[set-up] {text}")

    def meter(self, label: str, total: int) -> Meter:
        """Starts a progress display for `total` bytes."""
        return Meter(self, label, total)

    @property
    def terminal(self) -> bool:
        """Whether lines can be rewritten."""
        return self.stream.isatty()


@dataclass(slots=True)
class Meter:
    """How much of one download is here."""

    reporter: Reporter
    label: str
    total: int
    _last: float = field(default_factory=time.monotonic)

    def update(self, done: int) -> None:
        """Shows `done` bytes of the total, no more often than is useful."""
        now = time.monotonic()
        interval = TERMINAL_INTERVAL_S if self.reporter.terminal else LINE_INTERVAL_S
        if self.reporter.quiet or now - self._last < interval:
            return
        self._last = now
        done = min(done, self.total)
        if self.reporter.terminal:
            self._draw(done)
        else:
            self.reporter.step(f"{self.label}: {_megabytes(done)} of {_megabytes(self.total)}")

    def close(self) -> None:
        """Removes the bar, so that the next line starts clean."""
        if self.reporter.terminal and not self.reporter.quiet:
            self.reporter.stream.write("\r\x1b[K")
            self.reporter.stream.flush()

    def _draw(self, done: int) -> None:
        filled = round(BAR_WIDTH * done / self.total) if self.total else BAR_WIDTH
        bar = "█" * filled + "░" * (BAR_WIDTH - filled)
        sizes = f"{_megabytes(done)} of {_megabytes(self.total)}"
        self.reporter.stream.write(f"\r\x1b[K[set-up] {self.label} {bar} {sizes}")
        self.reporter.stream.flush()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
