"""One WebSocket connection of a session: a reader, a writer, a pinger and a watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import socket as socket_module
from collections.abc import Awaitable, Callable
from typing import NoReturn

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from starling_client.events import Event
from starling_client.protocol import Phase, ResumeNeeded, SessionProtocol
from starling_client.settings import ResumePolicy

CLOSE_TIMEOUT_S = 2.0
SEND_BUFFER_BYTES = 65536
ABNORMAL = 1006


class Link:
    """Carries frames between a socket and a `SessionProtocol` until the connection ends for whatever reason."""

    def __init__(
        self,
        socket: ClientConnection,
        protocol: SessionProtocol,
        policy: ResumePolicy,
        deliver: Callable[[list[Event]], Awaitable[None]],
        on_sent: Callable[[], None],
    ) -> None:
        """Take over an open socket. `deliver` gets the events of each message, `on_sent` hears of each frame sent."""
        self._socket = socket
        self._protocol = protocol
        self._policy = policy
        self._deliver = deliver
        self._on_sent = on_sent
        self._wake = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._opened = self._heard = self._clock()
        self._delivering = False
        self._reason: str | None = None
        _limit_send_buffer(socket)

    @property
    def close_code(self) -> int:
        """The close code, 1006 where the connection ended without one."""
        return ABNORMAL if self._reason is not None else self._socket.close_code or ABNORMAL

    @property
    def close_reason(self) -> str:
        """Why the connection ended, as far as that is known."""
        return self._reason if self._reason is not None else self._socket.close_reason or ""

    def wake(self) -> None:
        """Let the writer look for new frames."""
        self._wake.set()

    async def run(self) -> None:
        """Carry frames until the connection is over. Raises ProtocolError for what the server must not send."""
        self._protocol.connection_opened()
        jobs = (self._read(), self._write(), self._ping(), self._watch())
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Close the connection regularly, within a limit."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._socket.close(), CLOSE_TIMEOUT_S)

    async def abort(self) -> None:
        """Drop the connection without a word."""
        self._socket.transport.abort()
        await self._socket.wait_closed()

    async def _read(self) -> None:
        try:
            while self._protocol.phase is not Phase.FINISHED:
                frame = await self._socket.recv()
                self._heard = self._clock()
                events = self._protocol.receive(frame)
                self.wake()
                self._delivering = True
                await self._deliver(events)
                self._delivering = False
            await self.close()
        except ConnectionClosed:
            return
        except ResumeNeeded as fault:
            self._reason = str(fault)

    async def _write(self) -> NoReturn:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._wake.clear()
                frame = self._protocol.next_frame() or await self._wait_for_frame()
                if frame is not None:
                    await self._socket.send(frame)
                    self._on_sent()
        await _until_cancelled()

    async def _wait_for_frame(self) -> str | None:
        try:
            async with asyncio.timeout(self._policy.keepalive_interval_s):
                await self._wake.wait()
        except TimeoutError:
            return self._protocol.keepalive()
        return None

    async def _ping(self) -> NoReturn:
        # The library's own keepalive counts only the pong, which may be stuck behind audio that a busy server has not
        # read yet while its events still arrive; here anything that is heard counts.
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(self._policy.ping_interval_s)
                await (await self._socket.ping())
                self._heard = self._clock()
        await _until_cancelled()

    async def _watch(self) -> None:
        while True:
            if self._protocol.phase is Phase.OPENING:
                since, limit = self._opened, self._policy.attempt_timeout_s
            else:
                since, limit = self._heard, self._policy.dead_after_s
            if self._delivering:
                # The user does not take events: that is not the server's fault.
                since = self._heard = self._clock()
            rest = since + limit - self._clock()
            if rest <= 0:
                self._reason = f"nothing heard from the server for {limit:g} s"
                return
            await asyncio.sleep(min(rest, self._policy.ping_interval_s))


async def _until_cancelled() -> NoReturn:
    while True:
        await asyncio.Event().wait()


def _limit_send_buffer(socket: ClientConnection) -> None:
    # What lies in the kernel delays the pings behind it and says nothing about what the server took.
    raw = socket.transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_SNDBUF, SEND_BUFFER_BYTES)
