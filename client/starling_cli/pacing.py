"""Audio at the speed of speech."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


async def in_real_time(pieces: Iterable[T], seconds: float) -> AsyncIterator[T]:
    """Yield each piece, `seconds` long, when a microphone would have it: at its end. Waits do not add up."""
    clock = asyncio.get_running_loop().time
    due = clock()
    for piece in pieces:
        due += seconds
        await asyncio.sleep(max(0.0, due - clock()))
        yield piece
