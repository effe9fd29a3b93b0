"""Who may connect: keys, tickets and origins, checked before the upgrade."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import structlog
from websockets.http11 import Request

from server.config import ConfigError, Settings
from server.keys import Key, Keys, KeysError
from server.quota import Identity
from session_store.base import SessionStore, StoreError

log = structlog.get_logger(__name__)

SUBPROTOCOL = "starling.v1"
"""What a browser offers beside its ticket, and the server selects."""

TICKET_PREFIX = "starling.ticket."
"""A subprotocol that is none: a browser can set no other header, and a URL ends up in logs."""

TICKET_TTL_S = 30.0
MAX_TICKET_CHARS = 100
TICKETS_PER_S = 10.0
"""For each key and process, with bursts of ten seconds."""

KEYS_CHECK_S = 1.0
"""How often the keys file is looked at, and with it every open connection's right to be there."""

REALM = 'Bearer realm="starling"'


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in place of the upgrade."""

    status: HTTPStatus
    text: str
    retry_after_s: int | None = None
    challenge: str | None = None
    """What a client should know of how to prove who it is: the `WWW-Authenticate` header."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A secret that opens one connection, soon."""

    text: str
    expires_in_s: float = TICKET_TTL_S


class Access:
    """Checks requests against the settings and the keys.

    Args:
        settings: of the gateway.
        store: remembers tickets for all gateways that share it.

    Raises:
        ConfigError: the keys file cannot be read.
    """

    def __init__(self, settings: Settings, store: SessionStore) -> None:
        self._origins = frozenset(settings.allowed_origins)
        self._store = store
        self._buckets: dict[str, tuple[float, float]] = {}
        try:
            self._keys = None if settings.keys_file is None else Keys(settings.keys_file.expanduser())
        except KeysError as error:
            raise ConfigError(str(error)) from None

    @property
    def has_keys(self) -> bool:
        """Whether keys are asked for."""
        return self._keys is not None

    def check_origin(self, request: Request) -> Refusal | None:
        """Why a web page may not connect, if so; who is no web page sends no origin."""
        origins, hosts = request.headers.get_all("Origin"), request.headers.get_all("Host")
        if not origins:
            return None
        if len(origins) == 1 and len(hosts) == 1 and self._is_allowed(origins[0], hosts[0]):
            return None
        text = "this page's origin is not allowed: add it to STARLING_ALLOWED_ORIGINS on the server"
        return Refusal(HTTPStatus.FORBIDDEN, text)

    async def identify(self, request: Request) -> Identity | Refusal:
        """Who sends this request, or why it is refused. A ticket is used up."""
        if self._keys is None:
            return Identity()
        given = request.headers.get_all("Authorization")
        if given:
            key = self._bearer(given)
        else:
            ticket = _offered_ticket(request)
            if ticket is None:
                text = "a key is needed: send `Authorization: Bearer KEY`, or from a browser a ticket from /ticket"
                return Refusal(HTTPStatus.UNAUTHORIZED, text, challenge=REALM)
            try:
                key = await self._redeem(ticket)
            except StoreError as error:
                log.warning("session store out of reach", error=str(error))
                return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "tickets cannot be checked just now: try again", 1)
        if key is None:
            text = "this key or ticket is not valid (any more): ask for a new one"
            return Refusal(HTTPStatus.UNAUTHORIZED, text, challenge=f'{REALM}, error="invalid_token"')
        return _identity(key)

    async def issue_ticket(self, request: Request) -> Ticket | Refusal:
        """Makes a ticket for the key that the request carries."""
        if self._keys is None:
            return Refusal(HTTPStatus.NOT_FOUND, "no keys are asked for here: connect without a ticket")
        refusal = self.check_origin(request)
        if refusal is not None:
            return refusal
        key = self._bearer(request.headers.get_all("Authorization"))
        if key is None:
            text = "a valid key is needed: send `Authorization: Bearer KEY`"
            return Refusal(HTTPStatus.UNAUTHORIZED, text, challenge=REALM)
        if not self._may_have_ticket(key.id):
            text = f"more than {TICKETS_PER_S:g} tickets a second for this key: ask for fewer"
            return Refusal(HTTPStatus.TOO_MANY_REQUESTS, text, 1)
        ticket = Ticket(secrets.token_urlsafe(32))
        try:
            await self._store.issue_ticket(_hash(ticket.text), key.id, ttl_s=TICKET_TTL_S)
        except StoreError as error:
            log.warning("session store out of reach", error=str(error))
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "tickets cannot be made just now: try again", 1)
        return ticket

    def is_valid(self, identity: Identity) -> bool:
        """Whether a connection that was let in may stay."""
        return self._keys is None or self._keys.get(identity.key_id) is not None

    async def watch(self, on_look: Callable[[], None]) -> None:
        """Follows the keys file for ever; calls `on_look` each time, for keys expire too."""
        while self._keys is not None:
            await asyncio.sleep(KEYS_CHECK_S)
            self._keys.refresh()
            on_look()

    def _bearer(self, given: list[str]) -> Key | None:
        assert self._keys is not None
        scheme, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        return self._keys.find(text.strip()) if scheme.lower() == "bearer" else None

    async def _redeem(self, ticket: str) -> Key | None:
        assert self._keys is not None
        key_id = await self._store.redeem_ticket(_hash(ticket))
        return None if key_id is None else self._keys.get(key_id)

    def _may_have_ticket(self, key_id: str) -> bool:
        """A token bucket for each key."""
        now, burst = time.monotonic(), TICKETS_PER_S * 10
        left, at = self._buckets.get(key_id, (burst, now))
        left = min(burst, left + (now - at) * TICKETS_PER_S)
        self._buckets[key_id] = (max(0.0, left - 1), now)
        return left >= 1

    def _is_allowed(self, origin: str, host: str) -> bool:
        if origin in self._origins or "*" in self._origins:
            return True
        is_same = origin in (f"http://{host}", f"https://{host}")
        # Where no keys are asked for, a page of any name whose DNS answers with this machine's address would have the
        # same origin as this server (DNS rebinding): a name counts only where an address could stand.
        return is_same and (self.has_keys or _is_address(host))


def _identity(key: Key) -> Identity:
    hours = key.hours_per_day
    return Identity(key.id, key.sessions, None if hours is None else hours * 3600)


def _offered_ticket(request: Request) -> str | None:
    offers = [
        offer.strip() for given in request.headers.get_all("Sec-WebSocket-Protocol") for offer in given.split(",")
    ]
    tickets = [offer.removeprefix(TICKET_PREFIX) for offer in offers if offer.startswith(TICKET_PREFIX)]
    return tickets[0] if len(tickets) == 1 and len(tickets[0]) <= MAX_TICKET_CHARS else None


def _is_address(host: str) -> bool:
    """Whether a `Host` header names this machine without asking DNS."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
