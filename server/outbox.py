"""What waits to be sent on one connection: bounded, and with partials collapsed to the newest."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from server.protocol.close import CloseCode, Closing
from server.session.commands import Send
from server.session.messages import Ack, Done, Finalized, Message, Partial, SpeechEnded
from session_store.base import Final


class Outbox:
    """The messages of one connection, in order, for one reader.

    A partial waits in a slot of its own where a newer one replaces it, and so does an acknowledgement: a client
    that reads slowly gets fewer of them and every final. Beyond `limit` waiting messages the connection is closed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: deque[Send] = deque()
        self._partial: Send | None = None
        self._ack: Send | None = None
        self._ready = asyncio.Event()
        self._held = False
        self._last_seq = -1
        self.closing: Closing | None = None

    @property
    def is_held(self) -> bool:
        """What is put is kept back."""
        return self._held

    def hold(self) -> None:
        """Keeps back what is put until `release`."""
        self._held = True

    def release(self, first: list[Send], last_seq: int) -> None:
        """Lets everything out: `first`, then what was held, without finals up to `last_seq`."""
        held = [o for o in self._queue if not (isinstance(o.message, Final) and o.message.seq <= last_seq)]
        self._queue = deque([*first, *held])
        self._last_seq = max(last_seq, self._last_seq)
        if self._partial_seq <= self._last_seq:
            self._partial = None
        self._held = False
        self._ready.set()

    def put(self, message: Message, since: float | None = None, speech_since: float | None = None) -> None:
        """Adds a message. After `close` it is dropped; so is a final that was sent before, and a partial of it."""
        if self.closing is not None:
            return
        outgoing = Send(message, since, speech_since)
        if isinstance(message, Partial):
            if message.seq > self._last_seq:
                if self._partial is not None and self._partial_seq == message.seq and speech_since is None:
                    outgoing = replace(outgoing, speech_since=self._partial.speech_since)
                self._partial = outgoing
        elif isinstance(message, Ack):
            self._ack = outgoing
        else:
            if isinstance(message, Final):
                if message.seq <= self._last_seq:
                    return
                self._last_seq = message.seq
            if isinstance(message, SpeechEnded) or (isinstance(message, Final) and self._partial_seq <= message.seq):
                self._partial = None
            if isinstance(message, Finalized | Done):
                # These stand at a place in the audio: what was said up to there goes before them.
                self._queue.extend(waiting for waiting in (self._partial, self._ack) if waiting is not None)
                self._partial = self._ack = None
            self._queue.append(outgoing)
            if len(self._queue) > self._limit:
                self._queue.clear()
                self.close(Closing(CloseCode.NOT_READING, f"{self._limit} messages wait to be read: read faster"))
        self._ready.set()

    @property
    def _partial_seq(self) -> int:
        """The seq of the partial that waits; -1 if none does."""
        return self._partial.message.seq if self._partial and isinstance(self._partial.message, Partial) else -1

    def close(self, closing: Closing) -> None:
        """Ends the connection once what is waiting has been sent; the first call counts. What is held back is dropped:
        it would go out before what `release` puts first."""
        if self.closing is None:
            self.closing = closing
            self._partial = None
            if self._held:
                self._queue.clear()
            self._held = False
            self._ready.set()

    async def get(self) -> Send:
        """Waits for the next message.

        Raises:
            Closing: all is sent, and the connection is to be closed.
        """
        while True:
            if not self._held:
                if self._queue:
                    return self._queue.popleft()
                if self._partial is not None:
                    outgoing, self._partial = self._partial, None
                    return outgoing
                if self._ack is not None:
                    outgoing, self._ack = self._ack, None
                    return outgoing
                if self.closing is not None:
                    raise self.closing
            self._ready.clear()
            await self._ready.wait()
