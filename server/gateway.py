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

from server.admission import RETRY_AFTER_S, Admission
from server.auth import SUBPROTOCOL, Access, Refusal, Ticket
from server.config import Settings
from server.connection import Connection
from server.direct import DirectSocket
from server.inference.service import Inference
from server.metrics import Metrics
from server.pages import Pages
from server.protocol import stream, telephone
from server.protocol.close import CloseCode, Closing
from server.protocol.stream import InvalidMessageError
from server.quota import Identity
from server.registry import Registry
from server.stream_connection import StreamConnection
from server.telephone_connection import TelephoneConnection
from server.tls import Tls

log = structlog.get_logger(__name__)

Route = tuple[Callable[[Identity, ServerConnection], Connection], str | None]
"""What makes the connection, and the id of the session that the client wants to continue."""

RETURN_TIMEOUT_S = 10.0
"""How long a connection that was let in past the limits may take to resume its session."""

FRAME_QUEUE = 8
"""Frames read ahead of the handler on one connection."""

WRITE_LIMIT = 1 << 15
"""Bytes on the way out after which sending waits for the client to read."""

PING_INTERVAL_S = 20

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
        self._admission = Admission(settings, registry, inference, self._open)
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
            create_connection=DirectSocket,
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
        route = self._route(path, request)
        if isinstance(route, Response):
            return route
        serve, session_id = route
        full, unnamed = self._admission.why_full(), path == "/stream"
        may_return = full is not None and self._admission.may_return(session_id, unnamed=unnamed)
        refusal = self._access.check_origin(request) or (None if may_return else full)
        if refusal is not None:
            return self._refuse(refusal)
        if not _is_upgrade(request):
            # Answered with 426, keys or not: a browser that was refused asks so whether the server can be reached.
            return None
        identity = await self._access.identify(request)
        if isinstance(identity, Refusal):
            return self._refuse(identity)
        is_return = may_return and await self._admission.is_return(session_id, identity, unnamed=unnamed)
        refusal = self._admission.has_too_many(identity) or (None if is_return else full)
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

    def _route(self, path: str, request: Request) -> Route | Response:
        """Which protocol is spoken at `path`, and which session the client wants to continue, if it says so here."""
        shared = (self._registry, self._settings, self._metrics)
        if path == "/stream":
            returning = stream.returning_session(request.path)
            return (lambda identity, socket: StreamConnection(socket, identity, *shared)), returning
        if path.startswith(telephone.PREFIX):
            if not self._access.has_keys and not self._settings.telephony_without_keys:
                return respond(HTTPStatus.NOT_FOUND, "telephony needs keys here: set STARLING_KEYS_FILE\n")
            try:
                call = telephone.parse(request.path, self._settings.languages)
            except InvalidMessageError as error:
                return respond(HTTPStatus.BAD_REQUEST, f"{error}\n")
            return (lambda identity, socket: TelephoneConnection(call, socket, identity, *shared)), call.session_id
        return respond(HTTPStatus.NOT_FOUND, f"there is nothing at {path}: WebSocket clients connect to /stream\n")

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
        hurry = asyncio.get_running_loop().call_later(RETURN_TIMEOUT_S, _send_away_undecided, connection)
        try:
            await connection.run()
        finally:
            hurry.cancel()
            self._open.discard(connection)
            open_now.dec()


def _send_away_undecided(connection: Connection) -> None:
    """Ends a connection that holds a place for a session that is to be resumed, and does not resume it."""
    if connection.must_resume and not connection.is_begun:
        text = f"the server is full, and no session was resumed within {RETURN_TIMEOUT_S:g} s: try again"
        connection.end(Closing(CloseCode.OVERLOADED, text, retry_after_ms=RETRY_AFTER_S * 1000))


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
