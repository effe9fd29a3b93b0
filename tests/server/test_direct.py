"""Audio taken as it arrives, over a real WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from server.direct import DirectSocket

DEADLINE = 20.0


@asynccontextmanager
async def connected(handler: Callable[[DirectSocket], Awaitable[None]]) -> AsyncIterator[ClientConnection]:
    """A client whose other end is served by `handler`; waits for its end."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve_one(socket: ServerConnection) -> None:
        try:
            await handler(cast(DirectSocket, socket))
        except Exception as fault:
            ended.set_exception(fault)
        else:
            ended.set_result(None)

    async with (
        asyncio.timeout(DEADLINE),
        serve(serve_one, "127.0.0.1", 0, create_connection=DirectSocket, compression=None) as server,
    ):
        port = next(iter(server.sockets)).getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", compression=None) as client:
            yield client
        await ended


async def test_audio_is_taken_without_the_reader_and_the_order_is_kept() -> None:
    seen: list[str | bytes] = []

    async def handler(socket: DirectSocket) -> None:
        def take(data: bytes) -> bool:
            seen.append(b"direct " + data)
            return True

        while len(seen) < 8:
            seen.append(await socket.receive(take))
            # What arrives while the reader is busy waits behind what it is busy with.
            await asyncio.sleep(0)

    async with connected(handler) as client:
        for message in (b"1", b"2", "three", b"4", b"5", "six", "seven", "eight"):
            await client.send(message)
        await client.wait_closed()
    order = [int(digits(message)) for message in seen]
    assert order == [1, 2, 3, 4, 5, 6, 7, 8]
    assert b"direct 1" in seen


def digits(message: str | bytes) -> str:
    names = {"three": "3", "six": "6", "seven": "7", "eight": "8"}
    return names[message] if isinstance(message, str) else message.decode().removeprefix("direct ")


async def test_a_message_that_is_left_wakes_the_reader_and_those_behind_it_wait() -> None:
    taken: list[bytes] = []
    read: list[str | bytes] = []

    async def handler(socket: DirectSocket) -> None:
        def take(data: bytes) -> bool:
            taken.append(data)
            return data != b"mind"

        read.append(await socket.receive(take))
        read.extend([await socket.receive() for _ in range(2)])

    async with connected(handler) as client:
        for message in (b"a", b"mind", b"b", b"c"):
            await client.send(message)
        await client.wait_closed()
    assert taken == [b"a", b"mind"]
    assert read == [b"mind", b"b", b"c"]


async def test_a_message_in_pieces_is_put_together_for_the_reader() -> None:
    taken: list[bytes] = []
    read: list[str | bytes] = []

    async def handler(socket: DirectSocket) -> None:
        def take(data: bytes) -> bool:
            taken.append(data)
            return True

        while "the end" not in read:
            read.append(await socket.receive(take))

    async with connected(handler) as client:
        await client.send(b"whole")
        await client.send([b"in ", b"three ", b"pieces"])
        await client.ping()
        await client.send(b"whole again")
        await client.send("the end")
        await client.wait_closed()
    # What comes close behind the pieces may find the reader busy with them.
    assert [message for message in read if message != b"whole again"] == [b"in three pieces", "the end"]
    assert taken[0] == b"whole"
    assert [*taken, *read].count(b"whole again") == 1


async def test_a_reader_that_takes_nothing_gets_everything() -> None:
    read: list[str | bytes] = []

    async def handler(socket: DirectSocket) -> None:
        read.extend([await socket.receive() for _ in range(2)])

    async with connected(handler) as client:
        await client.send(b"a")
        await client.send("b")
        await client.wait_closed()
    assert read == [b"a", "b"]
