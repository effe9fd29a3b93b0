"""The bounded queue between the connection and the user's `async for`."""

from __future__ import annotations

import asyncio
from collections import deque

from starling_client.events import Event, Partial

COLLAPSE_ABOVE = 64
LIMIT = 4096


class EventQueue:
    """Events in order, for one reader.

    Partials are hints: while more than `COLLAPSE_ABOVE` events wait, a newer partial takes the place of an older one of
    the same segment. At `LIMIT` events `put` waits, so that a user who does not iterate holds the server back.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._events: deque[Event] = deque()
        self._changed = asyncio.Condition()
        self._closed = False

    async def put(self, event: Event) -> None:
        """Add an event; wait while the queue is full. After `close` the event is dropped."""
        async with self._changed:
            if self._collapses(event):
                self._events[-1] = event
                return
            await self._changed.wait_for(lambda: len(self._events) < LIMIT or self._closed)
            if not self._closed:
                self._events.append(event)
                self._changed.notify_all()

    async def get(self) -> Event | None:
        """Return the next event, or None once the queue is closed and empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._events or self._closed)
            if not self._events:
                return None
            event = self._events.popleft()
            self._changed.notify_all()
            return event

    async def close(self) -> None:
        """Let the reader have what is there and then nothing more."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _collapses(self, event: Event) -> bool:
        if len(self._events) <= COLLAPSE_ABOVE or not isinstance(event, Partial):
            return False
        last = self._events[-1]
        return isinstance(last, Partial) and last.seq == event.seq
