"""Who is let in: origins, keys and tickets, request by request."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.http11 import Request

from server.auth import Access, Refusal, Ticket
from server.config import ConfigError, is_loopback, load
from server.keys import add_key, revoke_key
from server.quota import Identity
from server.serve import check_exposure
from session_store.base import StoreError
from session_store.memory import MemorySessionStore


def request(*headers: tuple[str, str]) -> Request:
    return Request("/stream", Headers(headers))


def bearer(text: str) -> Request:
    return request(("Authorization", f"Bearer {text}"))


def offering(*offers: str) -> Request:
    return request(("Sec-WebSocket-Protocol", ", ".join(offers)))


class Place:
    """An `Access` with one key."""

    def __init__(self, folder: Path, store: MemorySessionStore | None = None) -> None:
        self.file = folder / "keys.json"
        self.key, self.text = add_key(self.file, "phone", sessions=2, hours_per_day=0.5)
        self.settings = load(keys_file=self.file)
        self.store = store or MemorySessionStore()
        self.access = Access(self.settings, self.store)

    async def refusal(self, asked: Request) -> Refusal:
        answer = await self.access.identify(asked)
        assert isinstance(answer, Refusal)
        return answer

    async def ticket(self) -> str:
        ticket = await self.access.issue_ticket(bearer(self.text))
        assert isinstance(ticket, Ticket)
        return ticket.text


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# Keys


async def test_without_a_keys_file_everybody_is_let_in() -> None:
    access = Access(load(), MemorySessionStore())
    assert not access.has_keys
    assert await access.identify(request()) == Identity()
    assert await access.identify(bearer("sk_anything")) == Identity()
    refusal = await access.issue_ticket(bearer("sk_anything"))
    assert isinstance(refusal, Refusal)
    assert refusal.status is HTTPStatus.NOT_FOUND


async def test_a_key_gives_an_identity_with_its_limits(place: Place) -> None:
    assert await place.access.identify(bearer(place.text)) == Identity(place.key.id, 2, 1800.0)
    lower = request(("authorization", f"bearer   {place.text} "))
    assert await place.access.identify(lower) == Identity(place.key.id, 2, 1800.0)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer sk_00000000_wrong")],
        [("Authorization", "Basic KEY")],
        [("Authorization", "KEY")],
        [("Authorization", "Bearer KEY"), ("Authorization", "Bearer KEY")],
        [("Sec-WebSocket-Protocol", "starling.v1")],
        [("Sec-WebSocket-Protocol", "starling.v1, starling.ticket.KEY")],
        [("Sec-WebSocket-Protocol", "KEY")],
        [("Cookie", "key=KEY"), ("X-Api-Key", "KEY")],
    ],
)
async def test_what_is_no_valid_key_gets_401(place: Place, headers: list[tuple[str, str]]) -> None:
    refusal = await place.refusal(request(*((name, value.replace("KEY", place.text)) for name, value in headers)))
    assert refusal.status is HTTPStatus.UNAUTHORIZED
    assert refusal.challenge is not None
    assert refusal.challenge.startswith("Bearer ")
    assert "sk_0" not in refusal.text
    assert place.text not in refusal.text


async def test_a_revoked_key_is_valid_no_more(place: Place) -> None:
    identity = await place.access.identify(bearer(place.text))
    assert isinstance(identity, Identity)
    assert place.access.is_valid(identity)
    ticket = await place.ticket()
    revoke_key(place.file, place.key.id)
    assert place.access._keys is not None
    assert place.access._keys.refresh()
    assert not place.access.is_valid(identity)
    assert (await place.refusal(bearer(place.text))).status is HTTPStatus.UNAUTHORIZED
    assert (await place.refusal(offering("starling.v1", f"starling.ticket.{ticket}"))).status == 401


def test_a_keys_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="starling keys add"):
        Access(load(keys_file=tmp_path / "none.json"), MemorySessionStore())


# Tickets


async def test_a_ticket_opens_one_connection(place: Place) -> None:
    ticket = await place.ticket()
    asked = offering("starling.v1", f"starling.ticket.{ticket}")
    assert await place.access.identify(asked) == Identity(place.key.id, 2, 1800.0)
    assert (await place.refusal(asked)).status is HTTPStatus.UNAUTHORIZED


async def test_a_ticket_is_good_at_any_gateway_with_the_same_store(place: Place, tmp_path: Path) -> None:
    other = Access(place.settings, place.store)
    asked = offering(f"starling.ticket.{await place.ticket()}", "starling.v1")
    assert await other.identify(asked) == Identity(place.key.id, 2, 1800.0)
    assert (await place.refusal(asked)).status is HTTPStatus.UNAUTHORIZED


async def test_an_old_ticket_is_good_for_nothing(tmp_path: Path) -> None:
    now = 0.0
    place = Place(tmp_path, MemorySessionStore(clock=lambda: now))
    young, old = await place.ticket(), await place.ticket()
    now = 29.9
    assert isinstance(await place.access.identify(offering(f"starling.ticket.{young}")), Identity)
    now = 30.0
    assert (await place.refusal(offering(f"starling.ticket.{old}"))).status is HTTPStatus.UNAUTHORIZED


async def test_two_tickets_at_once_are_none_and_stay_good(place: Place) -> None:
    first, second = await place.ticket(), await place.ticket()
    both = offering(f"starling.ticket.{first}", f"starling.ticket.{second}")
    assert (await place.refusal(both)).status is HTTPStatus.UNAUTHORIZED
    assert isinstance(await place.access.identify(offering(f"starling.ticket.{first}")), Identity)


async def test_no_ticket_without_a_key_or_for_a_foreign_page(place: Place) -> None:
    ticket = await place.ticket()
    for asked in (request(), bearer("sk_wrong"), offering(f"starling.ticket.{ticket}")):
        refusal = await place.access.issue_ticket(asked)
        assert isinstance(refusal, Refusal)
        assert refusal.status is HTTPStatus.UNAUTHORIZED
    foreign = request(
        ("Authorization", f"Bearer {place.text}"), ("Origin", "https://evil.example"), ("Host", "127.0.0.1:8000")
    )
    refusal = await place.access.issue_ticket(foreign)
    assert isinstance(refusal, Refusal)
    assert refusal.status is HTTPStatus.FORBIDDEN


async def test_a_key_that_wants_ever_more_tickets_has_to_wait(place: Place) -> None:
    answers = [await place.access.issue_ticket(bearer(place.text)) for _ in range(150)]
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert 100 <= len(answers) - len(refused) < 150
    assert {(refusal.status, refusal.retry_after_s) for refusal in refused} == {(HTTPStatus.TOO_MANY_REQUESTS, 1)}
    _, other = add_key(place.file, "other")
    assert place.access._keys is not None
    place.access._keys.refresh()
    assert isinstance(await place.access.issue_ticket(bearer(other)), Ticket)


class AwayStore(MemorySessionStore):
    async def issue_ticket(self, ticket_hash: bytes, key_id: str, *, ttl_s: float) -> None:
        raise StoreError("away")

    async def redeem_ticket(self, ticket_hash: bytes) -> str | None:
        raise StoreError("away")


async def test_while_the_store_is_away_tickets_wait_and_keys_do_not(tmp_path: Path) -> None:
    place = Place(tmp_path, AwayStore())
    refusal = await place.access.issue_ticket(bearer(place.text))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.retry_after_s) == (HTTPStatus.SERVICE_UNAVAILABLE, 1)
    assert (await place.refusal(offering("starling.ticket.x"))).status is HTTPStatus.SERVICE_UNAVAILABLE
    assert isinstance(await place.access.identify(bearer(place.text)), Identity)


# Origins


def allowed(access: Access, origin: str, host: str) -> bool:
    return access.check_origin(request(("Origin", origin), ("Host", host))) is None


def test_pages_of_the_server_itself_may_connect(place: Place) -> None:
    open_access = Access(load(), MemorySessionStore())
    assert open_access.check_origin(request()) is None
    for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000", "192.168.1.7"):
        assert allowed(open_access, f"http://{host}", host)
        assert allowed(open_access, f"https://{host}", host)
        assert allowed(place.access, f"https://{host}", host)
    assert allowed(place.access, "https://speech.example", "speech.example")


def test_foreign_pages_may_not(place: Place) -> None:
    open_access = Access(load(), MemorySessionStore())
    for access in (open_access, place.access):
        for origin in (
            "https://evil.example",
            "null",
            "",
            "127.0.0.1:8000",
            "ftp://127.0.0.1:8000",
            "http://127.0.0.1",
        ):
            assert not allowed(access, origin, "127.0.0.1:8000"), origin
        twice = request(("Origin", "http://127.0.0.1"), ("Origin", "http://evil.example"), ("Host", "127.0.0.1"))
        assert access.check_origin(twice) is not None
    # A name that resolves to this machine for as long as its owner likes.
    assert not allowed(open_access, "http://rebound.example:8000", "rebound.example:8000")


def test_origins_can_be_allowed() -> None:
    listed = Access(load(allowed_origins=["https://app.example"]), MemorySessionStore())
    assert allowed(listed, "https://app.example", "127.0.0.1:8000")
    assert not allowed(listed, "http://app.example", "127.0.0.1:8000")
    assert not allowed(listed, "https://app.example.evil.example", "127.0.0.1:8000")
    everybody = Access(load(allowed_origins=["*"]), MemorySessionStore())
    assert allowed(everybody, "https://evil.example", "127.0.0.1:8000")


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]))


@settings(deadline=None)
@given(
    headers=st.lists(st.tuples(st.sampled_from(["Origin", "Host", "Authorization", "Sec-WebSocket-Protocol"]), TEXT))
)
async def test_no_headers_break_the_checks(headers: list[tuple[str, str]]) -> None:
    access = Access(load(keys_file=FILE), MemorySessionStore())
    access.check_origin(request(*headers))
    assert isinstance(await access.identify(request(*headers)), Refusal)
    assert isinstance(await access.issue_ticket(request(*headers)), Refusal)


# Exposure


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_addresses_of_this_machine_alone_need_no_keys(host: str) -> None:
    assert is_loopback(host)
    check_exposure(load(host=host))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.7", "speech.example", "127.evil.example", "localhost."]
)
def test_every_other_address_needs_keys_or_an_order(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="STARLING_KEYS_FILE"):
        check_exposure(load(host=host))
    check_exposure(load(host=host, keys_file=tmp_path / "keys.json"))
    check_exposure(load(host=host, allow_no_keys=True))


def _empty_file() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    add_key(folder / "keys.json", "phone")
    return folder / "keys.json"


FILE = _empty_file()
