"""How many streams to try next: up by doubling until a level breaks, then into the middle of what is left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """A number of streams that was tried, and whether it held the limits."""

    streams: int
    held: bool


def next_streams(steps: Sequence[Step], first: int, most: int) -> int | None:
    """The next number of streams to try; None when the border is known to an eighth, or `most` has held."""
    best, worst = capacity(steps), min((step.streams for step in steps if not step.held), default=None)
    if worst is None:
        wanted = min(best * 2, most) if best else min(first, most)
        return wanted if wanted > best else None
    if worst <= best or worst - best <= max(1, best // 8):
        return None
    return (best + worst) // 2


def capacity(steps: Sequence[Step]) -> int:
    """The most streams that held the limits, below every number that did not; 0 if none did."""
    worst = min((step.streams for step in steps if not step.held), default=None)
    return max((step.streams for step in steps if step.held and (worst is None or step.streams < worst)), default=0)
