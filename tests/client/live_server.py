"""The model server on a real port, with faults that a test asks for."""

from __future__ import annotations

import asyncio
import http
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.client.model_server import Close, ModelServer


class LiveServer:
    """Serves `model` at `url`. Queued `refusals` answer the next handshakes; `on_audio` sees each audio frame first,
    and ends the connection there by raising ConnectionResetError."""

    def __init__(self) -> None:
        self.model = ModelServer()
        self.refusals: deque[tuple[int, dict[str, str]]] = deque()
        self.requests: list[Request] = []
        self.sockets: set[ServerConnection] = set()
        self.audio_frames = 0
        self.texts: list[str] = []
        self.on_audio: Callable[[ServerConnection, int], object] = lambda socket, count: None
        self.heard = asyncio.Event()
        self.silent = False
        self.server: Server | None = None

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(next(iter(self.server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/stream"

    async def handle(self, socket: ServerConnection) -> None:
        connection = self.model.connect()
        self.sockets.add(socket)
        try:
            async for frame in socket:
                if isinstance(frame, bytes):
                    self.audio_frames += 1
                    self.on_audio(socket, self.audio_frames)
                else:
                    self.texts.append(frame)
                    self.heard.set()
                connection.receive(frame)
                while self.model.work():
                    pass
                while connection.outbox and not self.silent:
                    message = connection.outbox.popleft()
                    if isinstance(message, Close):
                        return await socket.close(message.code, message.reason)
                    await socket.send(message)
        except (ConnectionClosed, ConnectionResetError):
            pass
        finally:
            connection.lose()
            self.sockets.discard(socket)

    def refuse(self, socket: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if not self.refusals:
            return None
        status, headers = self.refusals.popleft()
        response = socket.respond(http.HTTPStatus(status), "refused\n")
        response.headers.update(headers)
        return response


@asynccontextmanager
async def serving(port: int = 0, server: LiveServer | None = None) -> AsyncIterator[LiveServer]:
    """Run a server for the length of a block."""
    server = server or LiveServer()
    async with serve(
        server.handle, "127.0.0.1", port, process_request=server.refuse, close_timeout=0.2, compression=None
    ) as running:
        server.server = running
        yield server
        for socket in list(server.sockets):
            socket.transport.abort()
        await asyncio.sleep(0)
