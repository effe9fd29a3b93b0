"""A TCP proxy between client and gateway that breaks connections in the ways that networks do."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

CHUNK = 4096
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset."""


class FaultyProxy:
    """Forwards to `target`, a port on this machine that may be changed at any time.

    `fault` is asked for each new connection after how many bytes from the client it shall be reset; None for never.
    `delay` gives the seconds that each chunk waits, in both directions. While `is_stalled`, nothing is forwarded and
    nobody is told.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.fault: Callable[[], int | None] = lambda: None
        self.delay: Callable[[], float] = lambda: 0.0
        self.connections = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Of `/stream` behind the proxy."""
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/stream"

    @property
    def is_stalled(self) -> bool:
        """Nothing gets through."""
        return not self._flowing.is_set()

    async def __aenter__(self) -> FaultyProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._flowing.set()
        self.reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self) -> None:
        """Lets nothing through any more, without closing anything: the other end looks half-open."""
        self._flowing.clear()

    def flow(self) -> None:
        """Lets everything through again, what was held back first."""
        self._flowing.set()

    def reset_all(self) -> None:
        """Resets every open connection."""
        for writer in tuple(self._writers):
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(writer)
            self._tasks.discard(task)
            return
        self._writers |= {writer, onward}
        ways = (
            asyncio.create_task(self._forward(reader, onward, self.fault())),
            asyncio.create_task(self._forward(onward_reader, writer, None)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, onward):
                self._writers.discard(end)
                with suppress(OSError):
                    end.close()
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await asyncio.sleep(self.delay())
                await self._flowing.wait()
                if limit is not None and passed + len(chunk) > limit:
                    writer.write(chunk[: limit - passed])
                    await writer.drain()
                    self.reset_all()
                    return
                passed += len(chunk)
                writer.write(chunk)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()


def random_cuts(times: int, longest: int, seed: int) -> Callable[[], int | None]:
    """The first `times` connections are cut after up to `longest` bytes, the others never."""
    chance = random.Random(seed)
    left = iter(range(times))
    return lambda: None if next(left, None) is None else chance.randint(200, longest)
