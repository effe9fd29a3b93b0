"""The asyncio shell: one task keeps a connection up and moves frames between it and the `SessionProtocol`."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.exceptions import InvalidHandshake, InvalidStatus

from starling_client.connection import CLOSE_TIMEOUT_S, Link
from starling_client.errors import BackpressureError, ProtocolError, SessionClosedError, StarlingError
from starling_client.event_queue import EventQueue
from starling_client.events import Done, Event, Reconnecting, SessionStarted
from starling_client.protocol import Phase, SessionProtocol
from starling_client.retry import Failed, Finished, Retry, Verdict, parse_retry_after
from starling_client.settings import ResumePolicy, SessionSettings


class Session:
    """A live session: send audio in, iterate over typed events, whatever happens to the connection between.

    Made by `starling_client.connect`; use it as an async context manager. Leaving the block without `end()` closes the
    session and gives up what has no final yet.
    """

    _protocol: SessionProtocol

    def __init__(
        self,
        url: str,
        settings: SessionSettings,
        policy: ResumePolicy,
        *,
        api_key: str | None = None,
        ssl: ssl_module.SSLContext | None = None,
    ) -> None:
        """Hold the settings; the connection is made on entering the context."""
        if urlsplit(url).scheme not in ("ws", "wss") or not urlsplit(url).hostname:
            raise ValueError(f"{url!r} is not an address like ws://HOST:PORT/stream")
        self.url = url
        self._settings = settings
        self._policy = policy
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._ssl = ssl
        self._events = EventQueue()
        self._writing = asyncio.Lock()
        self._room = asyncio.Event()
        self._opened = asyncio.Event()
        self._over = asyncio.Event()
        self._link: Link | None = None
        self._runner: asyncio.Task[None] | None = None
        self._error: StarlingError | None = None
        self._done: Done | None = None

    async def __aenter__(self) -> Self:
        """Open the session. Raises ConnectError where the server cannot be reached or refuses."""
        self._protocol = SessionProtocol(self._settings, self._policy, now=asyncio.get_running_loop().time())
        self._runner = asyncio.create_task(self._run(), name="starling-session")
        try:
            await self._opened.wait()
            self._raise_error()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        await self.close()

    def __aiter__(self) -> Self:
        """Return the session, which is its own iterator of events. One task at a time may iterate."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event; stop after `Done`. Raises what ended the session if that was an error."""
        event = await self._events.get()
        if event is None:
            self._raise_error()
            raise StopAsyncIteration
        return event

    @property
    def info(self) -> SessionStarted:
        """What the server said when it opened or last resumed the session."""
        if self._protocol.info is None:
            raise SessionClosedError("the session was not opened")
        return self._protocol.info

    @property
    def connected(self) -> bool:
        """Whether a connection carries the session at this moment."""
        return self._protocol.phase is Phase.LIVE

    @property
    def written_samples(self) -> int:
        """Samples handed to `send` so far."""
        return self._protocol.written_samples

    @property
    def sent_samples(self) -> int:
        """Samples that the current connection has taken; goes back when audio is sent again."""
        return self._protocol.sent_samples

    @property
    def acknowledged_samples(self) -> int:
        """Samples that will not have to be sent again."""
        return self._protocol.acknowledged_samples

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send audio in the session's encoding; any number of bytes, a sample may be split between two calls.

        Returns once the audio is kept for sending. While `max_unacknowledged_s` of audio are kept already it waits,
        and after `send_timeout_s` without any room it raises BackpressureError. Raises what ended the session.
        """
        rest = memoryview(data).cast("B")
        async with self._writing:
            while True:
                self._raise_error()
                self._room.clear()
                rest = rest[self._protocol.write_audio(rest) :]
                self._wake()
                if not len(rest):
                    break
                await self._wait_for_room()
        await asyncio.sleep(0)  # A loop around send() must let the connection's tasks run.

    async def finalize(self, identifier: str | None = None) -> str:
        """End the open segment now; a `Finalized` event with the returned id follows its final."""
        identifier = identifier or uuid.uuid4().hex[:8]
        async with self._writing:
            self._raise_error()
            self._protocol.finalize(identifier)
            self._wake()
        return identifier

    async def set_language(self, code: str) -> None:
        """Change the language from the next segment on."""
        async with self._writing:
            self._raise_error()
            self._protocol.set_language(code)
            self._wake()

    async def end(self) -> Done:
        """Say that no more audio comes and wait until every final is here. Raises what ended the session."""
        async with self._writing:
            self._raise_error()
            if self._done is None:
                self._protocol.end()
                self._wake()
        await self._over.wait()
        self._raise_error()
        assert self._done is not None, "a session that is over without an error had its done"
        return self._done

    async def stream(self, audio: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[Event]:
        """Send all of `audio`, end the session and yield its events until `Done`."""
        feeder = asyncio.create_task(self._feed(audio), name="starling-feeder")
        try:
            async for event in self:
                yield event
            await feeder
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)

    async def close(self) -> None:
        """Close the session without waiting for finals. Does nothing when it is over."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        if self._link is not None and not self._over.is_set():
            await self._link.close()
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)
        await self._finish(SessionClosedError("the session was closed"))

    async def stop_iteration(self) -> None:
        """Let the iterator end after the events that are there, though no `Done` came."""
        await self._events.close()

    async def _run(self) -> None:
        try:
            await self._keep_connected()
        except ProtocolError as error:
            await self._finish(error)
        except Exception as error:
            # Whoever waits for an event must hear of it, or would wait for ever.
            failure = StarlingError(f"the client failed: {error!r}")
            failure.__cause__ = error
            await self._finish(failure)

    async def _keep_connected(self) -> None:
        while True:
            verdict = await self._connect_once()
            match verdict:
                case Retry():
                    if self._protocol.info is not None:
                        await self._events.put(Reconnecting(verdict.attempt, verdict.delay_s, verdict.cause))
                    await asyncio.sleep(verdict.delay_s)
                case Failed():
                    return await self._finish(verdict.error)
                case Finished():
                    if verdict.done is not None:
                        await self._deliver([verdict.done])
                    return await self._finish(None)

    async def _connect_once(self) -> Verdict:
        clock = asyncio.get_running_loop().time
        try:
            socket = await self._dial()
        except InvalidStatus as error:
            status, headers = error.response.status_code, error.response.headers
            wait = parse_retry_after(headers.get("Retry-After"), time.time())
            cause = f"{self.url} refused the session with HTTP {status}"
            return self._protocol.connect_failed(cause, clock(), status=status, retry_after_s=wait)
        except (OSError, InvalidHandshake, EOFError) as error:
            cause = f"no Starling server answers at {self.url} ({_describe(error)})"
            return self._protocol.connect_failed(cause, clock())
        link = self._link = Link(socket, self._protocol, self._policy, self._deliver, self._room.set)
        try:
            await link.run()
        finally:
            self._link = None
            await link.abort()
        return self._protocol.connection_lost(link.close_code, link.close_reason, clock())

    @property
    def _address(self) -> str:
        """Where to connect; a session that goes on is named there, since a full server takes no others."""
        if self._protocol.info is None:
            return self.url
        parts = urlsplit(self.url)
        named = f"resume={quote(self._protocol.info.session_id, safe='')}"
        return parts._replace(query=f"{parts.query}&{named}" if parts.query else named).geturl()

    async def _dial(self) -> ClientConnection:
        host = urlsplit(self.url).hostname or ""
        loopback = host in ("localhost", "::1") or host.startswith("127.")
        return await dial(
            self._address,
            additional_headers=self._headers,
            compression=None,
            open_timeout=self._policy.attempt_timeout_s,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=None,
            proxy=None if loopback else True,
            ssl=self._ssl,
        )

    async def _deliver(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Done):
                self._done = event
            await self._events.put(event)
        self._room.set()
        if self._protocol.info is not None:
            self._opened.set()

    async def _finish(self, error: StarlingError | None) -> None:
        if self._over.is_set():
            return
        self._error = error
        for waiter in (self._over, self._opened, self._room):
            waiter.set()
        await self._events.close()

    async def _feed(self, audio: Iterable[bytes] | AsyncIterable[bytes]) -> None:
        try:
            if isinstance(audio, AsyncIterable):
                async for chunk in audio:
                    await self.send(chunk)
            else:
                for chunk in audio:
                    await self.send(chunk)
            await self.end()
        finally:
            # Without an end there is nothing more to wait for, whatever stopped the audio.
            await self.stop_iteration()

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(self._policy.send_timeout_s):
                await self._room.wait()
        except TimeoutError:
            raise BackpressureError(
                f"{self._policy.max_unacknowledged_s:g} s of audio wait for the server's acknowledgement and nothing "
                f"moved for {self._policy.send_timeout_s:g} s: is the session's iterator being read?"
            ) from None

    def _wake(self) -> None:
        if self._link is not None:
            self._link.wake()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _describe(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
