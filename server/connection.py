"""One WebSocket: frames in, messages out, and the ways it ends; what they mean is its protocol's business."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import ClassVar

import structlog
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from server.config import Settings
from server.direct import DirectSocket, Taker
from server.live import TAKEN_OVER, LiveSession
from server.metrics import Metrics
from server.outbox import Outbox
from server.protocol.close import CloseCode, Closing
from server.quota import Identity
from server.registry import Registry
from server.session.commands import Send
from server.session.messages import Error, Message, Partial
from session_store.base import Final

log = structlog.get_logger(__name__)

ERROR_CLOSES = frozenset({CloseCode.REVOKED, CloseCode.INTERNAL, CloseCode.OVERLOADED})
"""Standard codes before which an `error` message gives the same fact; so does every one from 4000 on."""

BROKEN_OFF = 1006
"""What stands for a close code where the line broke."""

CONTROL_BURST_S = 3.0
LAST_WORDS_S = 2.0
"""How long the last messages of a connection that is being closed may take."""


class Connection(ABC):
    """One socket for one session; each wire protocol has a subclass."""

    protocol: ClassVar[str]
    """Its name in metrics."""

    def __init__(
        self, socket: ServerConnection, identity: Identity, registry: Registry, settings: Settings, metrics: Metrics
    ) -> None:
        assert isinstance(socket, DirectSocket), "the listener makes no other"
        self._socket = socket
        self._identity = identity
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(settings.max_outbox)
        self.must_resume = False
        """Let in although the server is full, for a session that has lost its connection; a new one is refused."""
        self._live: LiveSession | None = None
        self._heard = self._loop.time()
        self._opened = self._heard
        self._controls = settings.max_controls_per_s * CONTROL_BURST_S
        self._controls_at = self._heard
        self._seconds_per_byte = 0.0

    async def run(self) -> None:
        """Serves the connection until it is closed."""
        writer = self._loop.create_task(self._write(), name="connection writer")
        self._watchdog = self._loop.call_later(
            min(self._settings.idle_timeout_s, self._settings.max_session_s), self._watch
        )
        for_good = False
        try:
            await self._registry.quota.admit(self._identity)
            await self._read()
        except ConnectionClosedOK as closed:
            for_good = closed.rcvd is not None and closed.rcvd.code == CloseCode.NORMAL
        except ConnectionClosed:
            pass
        except Closing as closing:
            self._outbox.close(closing)
            await writer
        except Exception as fault:
            self._fail(fault)
            await writer
        finally:
            self._watchdog.cancel()
            if self._live is not None:
                self._registry.leave(self._live, self._outbox, for_good=for_good)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self._log_end()

    @property
    def identity(self) -> Identity:
        """Who is at the other end."""
        return self._identity

    @property
    def is_begun(self) -> bool:
        """There is a session on it."""
        return self._live is not None

    def _fail(self, fault: Exception) -> None:
        self._metrics.faults.labels("connection").inc()
        log.error("connection failed", exc_info=fault)
        self._outbox.close(Closing(CloseCode.INTERNAL, "internal fault: resume the session", retry_after_ms=500))

    def end(self, closing: Closing) -> None:
        """Closes the connection, from outside."""
        self._outbox.close(closing)

    # --- what a protocol fills in

    @abstractmethod
    async def _read(self) -> None:
        """Takes frames until the connection ends; sets `_live` as soon as there is a session."""

    @abstractmethod
    def _encode(self, message: Message) -> str | None:
        """The text frame for a message; None for what this protocol does not say."""

    # --- reading

    async def _receive(self, take: Taker | None = None) -> str | bytes:
        """Waits for the next frame that `take`, called for audio as it arrives, does not take."""
        frame = await self._socket.receive(take)
        self._heard = self._loop.time()
        if self._live is not None and self._live.outbox is not self._outbox:
            # What was still under way here must not get between the frames of the connection that has taken over.
            raise Closing(CloseCode.TAKEN_OVER, TAKEN_OVER)
        return frame

    def _begun(self, live: LiveSession) -> LiveSession:
        """Notes the session that this connection is for."""
        self._live = live
        self._seconds_per_byte = 1 / live.session.settings.bytes_per_second
        return live

    def _take(self, frame: bytes) -> bool:
        """Takes audio while the reader waits for something else; what it may not take wakes the reader up."""
        live = self._live
        if live is None or live.outbox is not self._outbox:
            return False
        self._heard = self._loop.time()
        try:
            self._audio(live, frame)
        except Closing as closing:
            self._outbox.close(closing)
        except Exception as fault:
            self._fail(fault)
        if self._outbox.closing is not None or not live.has_room:
            self._socket.take_no_more()
        return True

    def _audio(self, live: LiveSession, frame: bytes) -> None:
        self._metrics.frames.inc()
        seconds = len(frame) * self._seconds_per_byte
        self._metrics.audio.inc(seconds)
        self._registry.quota.count(self._identity, seconds)
        live.audio(frame)

    def _count_control(self) -> None:
        """A token bucket: bursts pass, a flood does not."""
        rate = self._settings.max_controls_per_s
        allowance = self._controls + (self._heard - self._controls_at) * rate
        self._controls = min(allowance, rate * CONTROL_BURST_S) - 1
        self._controls_at = self._heard
        if self._controls < 0:
            raise Closing(CloseCode.REVOKED, f"more than {rate:g} control messages a second: send fewer")

    def _watch(self) -> None:
        """Closes a connection that has gone silent or has lasted too long; else looks again when it next may."""
        now = self._loop.time()
        silent = now - self._heard
        waits = self._live is not None and not self._live.session.wants_audio
        if silent >= self._settings.idle_timeout_s and not waits:
            limit = self._settings.idle_timeout_s
            self._outbox.close(Closing(CloseCode.IDLE, f"nothing received for {limit:g} s: send audio or keepalive"))
        elif now - self._opened >= self._settings.max_session_s:
            self._outbox.close(
                Closing(CloseCode.DRAINING, "the longest connection time has passed: resume the session")
            )
        else:
            left = self._opened + self._settings.max_session_s - now
            wait = self._settings.idle_timeout_s if waits else self._settings.idle_timeout_s - silent
            self._watchdog = self._loop.call_later(max(min(wait, left), 0.01), self._watch)

    # --- writing

    async def _write(self) -> None:
        try:
            while True:
                outgoing = await self._outbox.get()
                async with asyncio.timeout(self._settings.send_timeout_s):
                    text = self._encode(outgoing.message)
                    if text is None:
                        continue
                    await self._socket.send(text)
                self._observe(outgoing)
        except TimeoutError:
            await self._close(Closing(CloseCode.NOT_READING, "the client takes no bytes: read faster"), abort=True)
        except Closing as closing:
            await self._close(closing, abort=closing.code is CloseCode.NOT_READING)
        except ConnectionClosed:
            pass

    async def _close(self, closing: Closing, *, abort: bool) -> None:
        """Says why, then closes; a client that does not read is cut off if that takes too long."""
        try:
            async with asyncio.timeout(LAST_WORDS_S if abort else self._settings.send_timeout_s):
                if closing.code >= CloseCode.INVALID or closing.code in ERROR_CLOSES:
                    error = Error(
                        closing.code, closing.message, recoverable=False, retry_after_ms=closing.retry_after_ms
                    )
                    text = self._encode(error)
                    if text is not None:
                        with suppress(ConnectionClosed):
                            await self._socket.send(text)
                await self._socket.close(closing.code, closing.reason)
        except TimeoutError:
            self._socket.transport.abort()

    def _observe(self, outgoing: Send) -> None:
        message = outgoing.message
        self._metrics.messages.labels(_kind(message)).inc()
        if outgoing.since is None:
            return
        delay = max(0.0, self._loop.time() - outgoing.since)
        if isinstance(message, Final):
            self._metrics.final_lag.observe(delay)
        elif isinstance(message, Partial):
            self._metrics.partial_lag.observe(delay)
            if outgoing.speech_since is not None:
                self._metrics.first_partial.observe(max(0.0, self._loop.time() - outgoing.speech_since))

    def _log_end(self) -> None:
        live = self._live
        self._metrics.closes.labels(self._socket.close_code or BROKEN_OFF).inc()
        if live is None:
            log.info("connection closed without a session", code=self._socket.close_code)
            return
        log.info(
            "connection closed",
            session=live.session_id,
            code=self._socket.close_code,
            seconds=round(self._loop.time() - self._opened, 1),
            audio_s=round(live.session.audio_seconds, 1),
            finals=live.finals,
        )


def _kind(message: Message) -> str:
    return type(message).__name__.lower()
