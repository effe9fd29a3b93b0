"""A WebSocket client for load: frames are built and masked beforehand, what comes back is kept as it is.

It knows of RFC 6455 what a well-behaved server can send it and no more; use `starling_client` for anything else. One
asyncio process carries hundreds of streams at 50 frames a second with it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import time
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
HANDSHAKE_LIMIT = 16384


class RefusedError(Exception):
    """The server answered the upgrade with another status than 101."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


def client_frame(opcode: int, payload: bytes) -> bytes:
    """One masked frame with the FIN bit, ready to be written."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    mask = os.urandom(4)
    key = np.resize(np.frombuffer(mask, np.uint8), size)
    return head + mask + (np.frombuffer(payload, np.uint8) ^ key).tobytes()


def text_frame(message: dict[str, Any]) -> bytes:
    """A control message as a masked frame."""
    return client_frame(TEXT, json.dumps(message).encode())


def split_frames(buffer: bytearray) -> list[tuple[int, bytes]]:
    """Takes the whole frames (opcode, payload) that a server sent off the front of `buffer`.

    Raises:
        ValueError: a frame that a server must not send, or one in pieces, which this client does not know.
    """
    frames = []
    while len(buffer) >= 2:
        first, size = buffer[0], buffer[1]
        if size & 0x80 or not first & 0x80:
            raise ValueError("the server sent a masked frame or part of a message")
        start = 2
        if size == 126:
            start, size = 4, int.from_bytes(buffer[2:4])
        elif size == 127:
            start, size = 10, int.from_bytes(buffer[2:10])
        if len(buffer) < start or len(buffer) < start + size:
            break
        frames.append((first & 15, bytes(buffer[start : start + size])))
        del buffer[: start + size]
    return frames


class LeanSocket(asyncio.Protocol):
    """One connection. `received` fills with (time.monotonic(), text message) as they come."""

    def __init__(self, request: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.received: list[tuple[float, bytes]] = []
        self.close_code: int | None = None
        """The server's; None for a connection that was lost without one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks for the upgrade."""
        # uvloop's transports are none by inheritance.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Takes what came, notes when."""
        self._buffer += data
        if not self.opened.done():
            self._read_head()
            if not self.opened.done() or self.opened.exception() is not None:
                return
        now = time.monotonic()
        for opcode, payload in split_frames(self._buffer):
            if opcode == TEXT:
                self.received.append((now, payload))
            elif opcode == PING:
                self.write(client_frame(PONG, payload))
            elif opcode == CLOSE:
                self.close_code = int.from_bytes(payload[:2]) if len(payload) >= 2 else 1005
                self.write(client_frame(CLOSE, payload[:2]))

    def _read_head(self) -> None:
        head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not found:
            if len(head) > HANDSHAKE_LIMIT:
                self._fail(RefusedError(0, "the answer is not HTTP"))
            return
        self._buffer = bytearray(rest)
        words = head.split(b"\r\n", 1)[0].split(b" ", 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        if status == 101:
            self.opened.set_result(None)
        else:
            self._fail(RefusedError(status, rest.decode(errors="replace").strip()))

    def _fail(self, error: Exception) -> None:
        self.opened.set_exception(error)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, for whatever reason."""
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError("closed during the handshake"))
        if not self.closed.done():
            self.closed.set_result(None)

    def write(self, frame: bytes) -> None:
        """Hands a frame to the socket; after the end it is dropped."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def abort(self) -> None:
        """Ends the connection without a word."""
        if self._transport is not None:
            self._transport.abort()


async def open_socket(url: str, api_key: str | None = None, timeout_s: float = 15.0) -> LeanSocket:
    """Connects to a `ws://` address and waits for the upgrade.

    Raises:
        RefusedError: with the status that the server gave instead.
        OSError: no connection.
    """
    parts = urlsplit(url)
    if parts.scheme != "ws":
        raise ValueError(f"{url}: the load generator speaks ws:// only; put TLS in front of the server")
    headers = [
        f"GET {parts.path or '/stream'} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
    ]
    if api_key:
        headers.append(f"Authorization: Bearer {api_key}")
    request = ("\r\n".join(headers) + "\r\n\r\n").encode()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        _, socket = await loop.create_connection(lambda: LeanSocket(request), parts.hostname or "", parts.port or 80)
        try:
            await socket.opened
        except BaseException:
            socket.abort()
            raise
    return socket
