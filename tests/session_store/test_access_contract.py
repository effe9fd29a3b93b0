"""What every session store does alike for API keys: their sessions, their tickets and their audio."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from session_store.base import SessionState, SessionStore, TooManySessionsError
from session_store.memory import MemorySessionStore
from session_store.sqlite import _VERSION_1, SqliteSessionStore
from tests.session_store.conftest import REDIS, Opener

ALL = pytest.mark.parametrize("session_url", ["memory", "sqlite", REDIS], indirect=True)
SHARED = pytest.mark.parametrize("session_url", ["sqlite", REDIS], indirect=True)

HASH = hashlib.sha256(b"token").digest()
TICKET = hashlib.sha256(b"ticket").digest()
LONG = 3600.0
SHORT = 0.2
DAY = 86400.0


def mine(number: int, key_id: str = "key-1") -> SessionState:
    return SessionState(f"session-{number}", HASH, key_id)


# Sessions of a key


@ALL
async def test_a_key_may_have_so_many_sessions(store: SessionStore) -> None:
    for number in range(2):
        await store.create(mine(number), owner="a", ttl_s=LONG, key_limit=2)
    with pytest.raises(TooManySessionsError):
        await store.create(mine(2), owner="a", ttl_s=LONG, key_limit=2)
    assert await store.peek("session-2") is None
    # Repeated by its owner, of another key, of no key, or without a limit.
    await store.create(mine(1), owner="a", ttl_s=LONG, key_limit=2)
    await store.create(mine(3, "key-2"), owner="a", ttl_s=LONG, key_limit=2)
    for number in (4, 5):
        await store.create(mine(number, ""), owner="a", ttl_s=LONG, key_limit=1)
    await store.create(mine(6), owner="a", ttl_s=LONG)


@ALL
async def test_a_session_that_ends_makes_room(store: SessionStore) -> None:
    fence = await store.create(mine(0), owner="a", ttl_s=LONG, key_limit=1)
    fence = await store.create(mine(0), owner="a", ttl_s=LONG, key_limit=1)
    await store.save(replace(mine(0), next_seq=1), fence=fence, ttl_s=LONG)
    await store.touch("session-0", fence=fence, ttl_s=LONG)
    with pytest.raises(TooManySessionsError):
        await store.create(mine(1), owner="a", ttl_s=LONG, key_limit=1)
    await store.delete("session-0", fence=fence)
    await store.create(mine(1), owner="a", ttl_s=LONG, key_limit=1)


@ALL
async def test_a_session_that_expires_makes_room(store: SessionStore) -> None:
    await store.create(mine(0), owner="a", ttl_s=SHORT, key_limit=1)
    async with asyncio.timeout(20):
        while isinstance(await store.peek("session-0"), SessionState):
            await asyncio.sleep(0.02)
    await store.create(mine(1), owner="a", ttl_s=LONG, key_limit=1)


@ALL
async def test_an_id_that_is_used_again_counts_once(store: SessionStore) -> None:
    for _ in range(3):
        fence = await store.create(mine(0), owner="a", ttl_s=LONG, key_limit=1)
        await store.delete("session-0", fence=fence)


@SHARED
async def test_gateways_that_begin_at_once_do_not_pass_the_limit_together(opener: Opener) -> None:
    stores = [opener() for _ in range(3)]
    begun = await asyncio.gather(
        *(stores[number % 3].create(mine(number), owner=str(number), ttl_s=LONG, key_limit=4) for number in range(12)),
        return_exceptions=True,
    )
    assert sum(isinstance(fence, int) for fence in begun) == 4
    assert sum(isinstance(error, TooManySessionsError) for error in begun) == 8


# Tickets


@ALL
async def test_a_ticket_is_good_once(store: SessionStore) -> None:
    await store.issue_ticket(TICKET, "key-1", ttl_s=LONG)
    assert await store.redeem_ticket(hashlib.sha256(b"another").digest()) is None
    assert await store.redeem_ticket(TICKET) == "key-1"
    assert await store.redeem_ticket(TICKET) is None


@ALL
async def test_a_ticket_passes(store: SessionStore) -> None:
    await store.issue_ticket(TICKET, "key-1", ttl_s=0.001)
    await asyncio.sleep(0.05)
    assert await store.redeem_ticket(TICKET) is None


@ALL
async def test_a_store_never_sees_a_ticket_itself(store: SessionStore) -> None:
    with pytest.raises(ValueError, match="ticket_hash"):
        await store.issue_ticket(b"ticket", "key-1", ttl_s=LONG)
    with pytest.raises(ValueError, match="key_id"):
        await store.issue_ticket(TICKET, "", ttl_s=LONG)


@SHARED
async def test_of_all_gateways_only_one_redeems_a_ticket(opener: Opener) -> None:
    stores = [opener() for _ in range(4)]
    for number in range(5):
        ticket = hashlib.sha256(bytes([number])).digest()
        await stores[0].issue_ticket(ticket, "key-1", ttl_s=LONG)
        redeemed = await asyncio.gather(*(stores[at % 4].redeem_ticket(ticket) for at in range(12)))
        assert sorted(filter(None, redeemed)) == ["key-1"]


# Audio of a key


@ALL
async def test_usage_adds_up_for_each_key(store: SessionStore) -> None:
    assert await store.add_usage("key-1", 0) == 0
    assert await store.add_usage("key-1", 1.5) == 1.5
    assert await store.add_usage("key-2", 100) == 100
    assert await store.add_usage("key-1", 0.25) == 1.75
    with pytest.raises(ValueError, match="key_id"):
        await store.add_usage("", 1)


@SHARED
async def test_usage_adds_up_over_gateways(opener: Opener) -> None:
    stores = [opener() for _ in range(3)]
    await asyncio.gather(*(stores[number % 3].add_usage("key-1", 0.5) for number in range(30)))
    assert await stores[0].add_usage("key-1", 0) == 15


async def test_usage_begins_anew_with_the_utc_day() -> None:
    now = 10 * DAY - 1
    store = MemorySessionStore(date=lambda: now)
    assert await store.add_usage("key-1", 5) == 5
    now += 2
    assert await store.add_usage("key-1", 1) == 1
    assert await store.add_usage("key-1", 1) == 2


class _Date:
    """A host's clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 10 * DAY - 1

    def agree(self, stored: object, last_seen: float) -> None:
        del stored, last_seen

    def now(self) -> float:
        return self.seconds


async def test_usage_begins_anew_with_the_utc_day_in_a_file(tmp_path: Path) -> None:
    date = _Date()
    store = SqliteSessionStore(tmp_path / "sessions.sqlite", clock=date)  # type: ignore[arg-type]
    assert await store.add_usage("key-1", 5) == 5
    assert await store.add_usage("key-1", 2) == 7
    date.seconds += 2
    assert await store.add_usage("key-1", 1) == 1
    assert await store.add_usage("key-1", 1) == 2
    await store.close()


async def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "sessions.sqlite"
    with sqlite3.connect(path) as db:
        for statement in (*_VERSION_1, "PRAGMA user_version = 1"):
            db.execute(statement)
    db.close()
    for _ in range(2):
        store = SqliteSessionStore(path)
        await store.create(mine(0), owner="a", ttl_s=LONG, key_limit=1)
        with pytest.raises(TooManySessionsError):
            await store.create(mine(1), owner="a", ttl_s=LONG, key_limit=1)
        await store.close()
