"""The listener: plain HTTP answers, the upgrade or why not, and a connection for each WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from weakref import WeakKeyDictionary

import orjson
import structlog
from prometheus_client import generate_latest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from server.auth import SUBPROTOCOL, Access, Refusal, Ticket
from server.config import Settings
from server.connection import Connection
from server.inference.service import Inference
from server.metrics import Metrics
from server.pages import Pages
from server.protocol import telephone
from server.protocol.close import CloseCode, Closing
from server.protocol.stream import InvalidMessageError
from server.quota import Identity
from server.registry import Registry
from server.stream_connection import StreamConnection
from server.telephone_connection import TelephoneConnection
from server.tls import Tls

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 5
"""What a refused client is asked to wait."""

FRAME_QUEUE = 8
"""Frames read ahead of the handler on one connection."""

WRITE_LIMIT = 1 << 15
"""Bytes on the way out after which sending waits for the client to read."""

PING_INTERVAL_S = 20

SPARE_CONNECTIONS = 4
"""What a key may have open beyond two for each of its sessions: a broken connection is noticed late, and the one that
resumes its session must get in."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""On every answer that does not bring its own."""


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
        self._open: set[Connection] = set()
        self._tls = Tls(settings.tls_certificate, settings.tls_key) if settings.tls_certificate else None
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
            ssl=None if self._tls is None else self._tls.context,
            reuse_port=self._settings.workers > 1,
            process_request=self._answer,
            process_response=self._harden,
            select_subprotocol=_select_subprotocol,
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

    async def watch_access(self) -> None:
        """Follows keys and certificate for ever; who has no right to be here any more is sent away."""
        watches = [self._access.watch(self._send_away_revoked)]
        if self._tls is not None:
            watches.append(self._tls.watch())
        await asyncio.gather(*watches)

    def _send_away_revoked(self) -> None:
        for connection in self._open:
            if not self._access.is_valid(connection.identity):
                connection.end(Closing(CloseCode.REVOKED, "the key was revoked or has expired: ask for a new one"))

    # --- before the upgrade

    async def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        page = self._pages.get(path)
        if page is not None:
            return page()
        if path in self._files:
            return self._files.answer(path, request)
        if path == "/ticket":
            return await self._issue_ticket(request)
        serve = self._route(path, request)
        if isinstance(serve, Response):
            return serve
        full = self._is_full()
        is_return = full is not None and path == "/stream" and self._awaits_return()
        refusal = self._access.check_origin(request) or (None if is_return else full)
        if refusal is not None:
            return self._refuse(refusal)
        if not _is_upgrade(request):
            # Answered with 426, keys or not: a browser that was refused asks so whether the server can be reached.
            return None
        identity = await self._access.identify(request)
        if isinstance(identity, Refusal):
            return self._refuse(identity)
        refusal = self._has_too_many(identity)
        if refusal is not None:
            return self._refuse(refusal)
        self._admitted[connection] = partial(self._make, serve, identity, is_return)
        return None

    def _make(
        self,
        serve: Callable[[Identity, ServerConnection], Connection],
        identity: Identity,
        is_return: bool,
        socket: ServerConnection,
    ) -> Connection:
        connection = serve(identity, socket)
        connection.must_resume = is_return
        return connection

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

    def _is_full(self) -> Refusal | None:
        """Why no further session can be taken on, if so."""
        text = None
        if self._registry.is_draining:
            text = "the server is draining: connect to another one"
        elif len(self._open) >= self._settings.max_sessions:
            text = f"all {self._settings.max_sessions} sessions are taken: try again"
        elif self._inference.final_delay > self._settings.max_final_delay_s:
            text = "the speech models are overloaded: try again"
        return None if text is None else Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text, RETRY_AFTER_S)

    def _awaits_return(self) -> bool:
        """Whether a connection past the limits may be that of a session which has lost its own and must stay well."""
        if self._registry.is_draining:
            return False
        undecided = sum(connection.must_resume and not connection.is_begun for connection in self._open)
        return undecided < self._registry.adrift

    def _has_too_many(self, identity: Identity) -> Refusal | None:
        """Why a key may not open one more connection, if so. Its sessions are counted when one begins."""
        if identity.max_sessions is None:
            return None
        limit = 2 * identity.max_sessions + SPARE_CONNECTIONS
        if sum(connection.identity.key_id == identity.key_id for connection in self._open) < limit:
            return None
        text = f"this key has {limit} connections open: close some"
        return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text, RETRY_AFTER_S)

    async def _issue_ticket(self, request: Request) -> Response:
        if request.method != "GET":
            return respond(HTTPStatus.METHOD_NOT_ALLOWED, "ask with GET\n", headers={"Allow": "GET"})
        ticket = await self._access.issue_ticket(request)
        if not isinstance(ticket, Ticket):
            return self._refuse(ticket)
        body = orjson.dumps({"ticket": ticket.text, "expires_in_s": ticket.expires_in_s})
        return respond(HTTPStatus.OK, body, content_type="application/json")

    def _refuse(self, refusal: Refusal) -> Response:
        self._metrics.refusals.labels(int(refusal.status)).inc()
        headers = {}
        if refusal.retry_after_s is not None:
            headers["Retry-After"] = str(refusal.retry_after_s)
        if refusal.challenge is not None:
            headers["WWW-Authenticate"] = refusal.challenge
        return respond(refusal.status, f"{refusal.text}\n", headers=headers)

    def _harden(self, connection: ServerConnection, request: Request, response: Response) -> None:
        """Adds what protects a browser to every answer."""
        del connection, request
        for name, value in SECURITY_HEADERS.items():
            if name not in response.headers:
                response.headers[name] = value
        if self._tls is not None:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"

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
        self._open.add(connection)
        open_now.inc()
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            open_now.dec()


def _is_upgrade(request: Request) -> bool:
    asked = [token.strip().lower() for given in request.headers.get_all("Upgrade") for token in given.split(",")]
    return "websocket" in asked


def _select_subprotocol(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Ours, where it is offered: a browser that offers any breaks off without an answer to one of them."""
    del connection
    ours = Subprotocol(SUBPROTOCOL)
    return ours if ours in offered else None


def respond(
    status: HTTPStatus,
    body: str | bytes,
    *,
    content_type: str = "text/plain; charset=utf-8",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A whole HTTP response, after which the connection is closed."""
    raw = body.encode() if isinstance(body, str) else body
    always = {
        "Content-Type": content_type,
        "Content-Length": str(len(raw)),
        "Connection": "close",
        "Cache-Control": "no-store",
    }
    return Response(int(status), status.phrase, Headers({**always, **(headers or {})}), raw)


async def watch_loop(metrics: Metrics, interval_s: float = 0.1) -> None:
    """Measures how late the event loop runs, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        metrics.loop_delay.observe(max(0.0, loop.time() - due))
