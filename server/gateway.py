"""The listener: plain HTTP answers, the upgrade or why not, and a connection for each WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from weakref import WeakKeyDictionary

import orjson
import structlog
from prometheus_client import generate_latest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from server.auth import Access, Refusal
from server.config import Settings
from server.connection import Connection
from server.inference.service import Inference
from server.metrics import Metrics
from server.pages import Pages
from server.protocol import telephone
from server.protocol.stream import InvalidMessageError
from server.registry import Identity, Registry
from server.stream_connection import StreamConnection
from server.telephone_connection import TelephoneConnection

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 5
"""What a refused client is asked to wait."""

FRAME_QUEUE = 8
"""Frames read ahead of the handler on one connection."""

WRITE_LIMIT = 1 << 15
"""Bytes on the way out after which sending waits for the client to read."""

PING_INTERVAL_S = 20


class Gateway:
    """Answers everything that arrives on the port."""

    def __init__(
        self, settings: Settings, access: Access, registry: Registry, inference: Inference, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._access = access
        self._registry = registry
        self._inference = inference
        self._metrics = metrics
        self._server: Server | None = None
        self._connections = 0
        self._admitted: WeakKeyDictionary[ServerConnection, Callable[[ServerConnection], Connection]] = (
            WeakKeyDictionary()
        )
        """Connections between the answer to their request and their start; some never come to it."""
        self._pages: dict[str, Callable[[], Response]] = {
            "/healthz": lambda: respond(HTTPStatus.OK, "alive\n"),
            "/readyz": self._ready,
            "/metrics": self._report_metrics,
        }
        self._files = Pages.load(settings)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def start(self) -> None:
        """Begins to listen."""
        self._server = await serve(
            self._serve,
            self._settings.host,
            self._settings.port,
            process_request=self._answer,
            compression=None,  # 14 KiB a connection instead of 47, and audio does not compress
            max_size=self._settings.max_frame_bytes,
            max_queue=FRAME_QUEUE,
            write_limit=WRITE_LIMIT,
            # A client that is held back by not reading cannot answer pings: the idle limit finds dead peers.
            ping_interval=PING_INTERVAL_S,
            ping_timeout=None,
            close_timeout=2,
            server_header="starling",
        )

    async def stop_listening(self) -> None:
        """Takes no new connection; those that are open go on."""
        if self._server is not None:
            self._server.close(close_connections=False)

    async def wait_closed(self) -> None:
        """Waits until the last connection is gone."""
        if self._server is not None:
            await self._server.wait_closed()

    # --- before the upgrade

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        page = self._pages.get(path)
        if page is not None:
            return page()
        if path in self._files:
            return self._files.answer(path, request)
        serve = self._route(path, request)
        if isinstance(serve, Response):
            return serve
        identity = self._access.check(request)
        if isinstance(identity, Refusal):
            return self._refuse(identity)
        full = self._is_full()
        if full is not None:
            return self._refuse(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, full, RETRY_AFTER_S))
        self._admitted[connection] = partial(serve, identity)
        return None

    def _route(self, path: str, request: Request) -> Callable[[Identity, ServerConnection], Connection] | Response:
        """Which protocol is spoken at `path`."""
        shared = (self._registry, self._settings, self._metrics)
        if path == "/stream":
            return lambda identity, socket: StreamConnection(socket, identity, *shared)
        if path.startswith(telephone.PREFIX):
            if not self._access.has_keys and not self._settings.telephony_without_keys:
                return respond(HTTPStatus.NOT_FOUND, "telephony needs keys here: set STARLING_KEYS_FILE\n")
            try:
                call = telephone.parse(request.path, self._settings.languages)
            except InvalidMessageError as error:
                return respond(HTTPStatus.BAD_REQUEST, f"{error}\n")
            return lambda identity, socket: TelephoneConnection(call, socket, identity, *shared)
        return respond(HTTPStatus.NOT_FOUND, f"there is nothing at {path}: WebSocket clients connect to /stream\n")

    def _is_full(self) -> str | None:
        """Why no further session can be taken on, if so."""
        if self._registry.is_draining:
            return "the server is draining: connect to another one"
        if self._connections >= self._settings.max_sessions:
            return f"all {self._settings.max_sessions} sessions are taken: try again"
        if self._inference.final_delay > self._settings.max_final_delay_s:
            return "the speech models are overloaded: try again"
        return None

    def _refuse(self, refusal: Refusal) -> Response:
        self._metrics.refusals.labels(int(refusal.status)).inc()
        return respond(refusal.status, f"{refusal.text}\n", retry_after_s=refusal.retry_after_s)

    def _ready(self) -> Response:
        health = self._inference.health()
        ready = health.is_healthy and not self._registry.is_draining
        body = orjson.dumps(
            {"ready": ready, "draining": self._registry.is_draining, "models": health.models},
            option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_DATACLASS,
        )
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return respond(status, body, content_type="application/json")

    def _report_metrics(self) -> Response:
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return respond(HTTPStatus.OK, generate_latest(self._metrics.registry), content_type=content_type)

    # --- after the upgrade

    async def _serve(self, socket: ServerConnection) -> None:
        connection = self._admitted.pop(socket)(socket)
        open_now = self._metrics.connections.labels(connection.protocol)
        self._connections += 1
        open_now.inc()
        try:
            await connection.run()
        finally:
            self._connections -= 1
            open_now.dec()


def respond(
    status: HTTPStatus,
    body: str | bytes,
    *,
    content_type: str = "text/plain; charset=utf-8",
    retry_after_s: int | None = None,
) -> Response:
    """A whole HTTP response, after which the connection is closed."""
    raw = body.encode() if isinstance(body, str) else body
    headers = Headers(
        {
            "Content-Type": content_type,
            "Content-Length": str(len(raw)),
            "Connection": "close",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
    )
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    return Response(int(status), status.phrase, headers, raw)


async def watch_loop(metrics: Metrics, interval_s: float = 0.1) -> None:
    """Measures how late the event loop runs, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        metrics.loop_delay.observe(max(0.0, loop.time() - due))
