"""A WebSocket whose audio is taken in the moment in which it arrives.

`recv()` costs a future and a turn of a task for every message, which at 50 a second and stream is a good part of all
that a gateway does. So whoever waits for messages may leave a function that takes audio without waking it up.
"""

from __future__ import annotations

from collections.abc import Callable

from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import Event

Taker = Callable[[bytes], bool]
"""Takes a binary message and returns True, or leaves it to the reader and returns False. It must not raise."""


class DirectSocket(ServerConnection):
    """A server connection whose reader is woken up only for what a function does not take.

    Messages keep their order: whatever is left to the reader, those behind it wait until it asks again.
    """

    _taker: Taker | None = None

    async def receive(self, take: Taker | None = None) -> str | bytes:
        """Waits for the next message that `take` does not take; the exceptions are those of `recv`."""
        # What is waiting already comes back at once, before anything else can arrive.
        self._taker = take
        try:
            return await self.recv()
        finally:
            self._taker = None

    def take_no_more(self) -> None:
        """Leaves everything from the next message on to the reader."""
        self._taker = None

    def process_event(self, event: Event) -> None:
        """Called with all that arrives."""
        if self._taker is not None and isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            # Without `fin` it is the first of several pieces, which `recv` puts together.
            if event.opcode is Opcode.BINARY and event.fin and self._taker(bytes(event.data)):
                return
            self._taker = None
        super().process_event(event)
