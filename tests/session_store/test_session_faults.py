"""Session stores that are away, slow, full or forgetful."""

# The event loop has nothing else to do while a test makes files and processes.

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from session_store.base import SessionState, SessionStore, StaleOwnerError, StoreError
from session_store.factory import open_session_store, sqlite_url
from session_store.redis import RedisSessionStore
from session_store.sqlite import SqliteSessionStore
from tests.servers.redis import RedisServer
from tests.session_store.conftest import fill_up

STATE = SessionState("session-1", hashlib.sha256(b"token").digest(), tail="tail")
LONG = 3600.0
# Generous against the deadlines of 0.3 to 0.5 s below: what must not happen is a call that hangs.
PATIENCE_S = 15.0


@contextlib.asynccontextmanager
async def opened(store: SessionStore) -> AsyncIterator[SessionStore]:
    try:
        yield store
    finally:
        async with asyncio.timeout(PATIENCE_S):
            await store.close()


async def refused(store: SessionStore, fence: int) -> None:
    """Every operation ends in a StoreError, and soon."""
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(
            store.create(replace(STATE, session_id="new"), owner="a", ttl_s=LONG),
            store.claim("session-1", owner="a", ttl_s=LONG),
            store.save(STATE, fence=fence, ttl_s=LONG),
            store.touch("session-1", fence=fence, ttl_s=LONG),
            store.delete("session-1", fence=fence),
            store.expired(10),
            store.ping(),
            return_exceptions=True,
        )
    for outcome in outcomes:
        assert isinstance(outcome, StoreError), outcome
        assert "p@ss" not in str(outcome)
        assert "w0rd" not in str(outcome)


async def back_again(store: SessionStore) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await store.ping()
            except StoreError:
                await asyncio.sleep(0.02)


# Redis


@pytest.fixture
def own_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(persistent=getattr(request, "param", False)) as server:
        yield server


@pytest.mark.redis
async def test_redis_paused(own_redis: RedisServer) -> None:
    async with opened(open_session_store(own_redis.url, deadline_s=0.3)) as store:
        fence = await store.create(STATE, owner="a", ttl_s=LONG)
        own_redis.pause()
        await refused(store, fence)
        own_redis.resume()
        await back_again(store)
        # What was sent into the pause may have happened or not; the present owner can go on in either case.
        state = await store.peek("session-1")
        assert state is not None


@pytest.mark.redis
async def test_many_calls_into_a_paused_redis_all_end(own_redis: RedisServer) -> None:
    async with opened(open_session_store(own_redis.url, deadline_s=0.3)) as store:
        fence = await store.create(STATE, owner="a", ttl_s=LONG)
        own_redis.pause()
        async with asyncio.timeout(PATIENCE_S):
            calls = [store.save(STATE, fence=fence, ttl_s=LONG) for _ in range(200)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreError}
        own_redis.resume()
        await back_again(store)
        await store.save(STATE, fence=fence, ttl_s=LONG)


@pytest.mark.redis
@pytest.mark.parametrize("own_redis", [True], indirect=True)
async def test_redis_killed_and_restarted_keeps_what_was_saved(own_redis: RedisServer) -> None:
    async with opened(open_session_store(own_redis.url, deadline_s=0.5)) as store:
        fence = await store.create(STATE, owner="a", ttl_s=LONG)
        await store.save(replace(STATE, next_seq=5), fence=fence, ttl_s=LONG)
        own_redis.kill()
        await refused(store, fence)
        own_redis.start()
        await back_again(store)
        assert await store.peek("session-1") == replace(STATE, next_seq=5)
        await store.save(replace(STATE, next_seq=6), fence=fence, ttl_s=LONG)


@pytest.mark.redis
async def test_redis_that_forgot_everything_costs_no_connected_session(own_redis: RedisServer) -> None:
    async with opened(open_session_store(own_redis.url)) as store:
        await store.create(STATE, owner="a", ttl_s=LONG)
        claim = await store.claim("session-1", owner="b", ttl_s=LONG)
        own_redis.kill()
        own_redis.start()
        # Idle connections are dead now: the first call must not stumble over them.
        assert await store.peek("session-1") is None
        fence = getattr(claim, "fence")  # noqa: B009
        await store.save(replace(STATE, next_seq=3), fence=fence, ttl_s=LONG)
        with pytest.raises(StaleOwnerError):
            await store.save(STATE, fence=fence - 1, ttl_s=LONG)
        assert await store.peek("session-1") == replace(STATE, next_seq=3)


@pytest.mark.redis
async def test_redis_out_of_memory(own_redis: RedisServer) -> None:
    async with opened(open_session_store(own_redis.url)) as store:
        assert isinstance(store, RedisSessionStore)
        fence = await store.create(STATE, owner="a", ttl_s=LONG)
        await store._redis.config_set("maxmemory", "1mb")
        with pytest.raises(StoreError, match="memory"):
            await store.ping()
        with pytest.raises(StoreError, match="memory"):
            await store.save(STATE, fence=fence, ttl_s=LONG)
        await store._redis.config_set("maxmemory", "0")
        await store.save(STATE, fence=fence, ttl_s=LONG)


@pytest.mark.redis
async def test_wrong_redis_password_shows_no_password(own_redis: RedisServer) -> None:
    async with opened(open_session_store(own_redis.url.replace("redis@", "wrong@"))) as store:
        with pytest.raises(StoreError, match="invalid username-password") as caught:
            await store.ping()
        assert "w0rd" not in str(caught.value)


async def test_redis_that_is_not_there() -> None:
    async with opened(open_session_store("redis://127.0.0.1:1/0", deadline_s=0.5)) as store:
        await refused(store, 1)
        await store.publish_partial("session-1", "text", 0)


# SQLite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "sessions.sqlite"


async def test_sqlite_files_are_private(path: Path) -> None:
    async with opened(SqliteSessionStore(path)) as store:
        await store.create(STATE, owner="a", ttl_s=LONG)
        assert {file.stat().st_mode & 0o077 for file in (path.parent, *path.parent.iterdir())} == {0}


async def test_sqlite_locked_by_another(path: Path) -> None:
    async with opened(SqliteSessionStore(path, deadline_s=0.3)) as store:
        fence = await store.create(STATE, owner="a", ttl_s=LONG)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        await refused(store, fence)
        other.execute("ROLLBACK")
        other.close()
        await back_again(store)
        await store.save(replace(STATE, next_seq=3), fence=fence, ttl_s=LONG)


async def test_a_new_sqlite_file_that_another_gateway_is_making(path: Path) -> None:
    """SQLite refuses write-ahead mode at once while another connection writes the file in its first mode."""
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with opened(SqliteSessionStore(path, deadline_s=0.3)) as impatient:
            with pytest.raises(StoreError):
                await impatient.create(STATE, owner="a", ttl_s=LONG)
        async with opened(SqliteSessionStore(path, deadline_s=PATIENCE_S)) as store:
            creating = asyncio.create_task(store.create(STATE, owner="a", ttl_s=LONG))
            await asyncio.wait({creating}, timeout=0.3)
            assert not creating.done()
            other.execute("COMMIT")
            await creating
            assert await store.peek("session-1") == STATE


async def test_sqlite_on_a_full_disk(path: Path) -> None:
    async with opened(SqliteSessionStore(path, max_pages=12)) as store:
        fence = await store.create(STATE, owner="a", ttl_s=LONG)
        kept = []
        with pytest.raises(StoreError, match="full"):  # noqa: PT012
            for number in range(100):
                state = replace(STATE, session_id=f"s{number}", tail="x" * 2000)
                kept.append((state, await store.create(state, owner="a", ttl_s=LONG)))
        assert kept
        # What is in stays in, and can be read and ended; that makes room.
        assert await store.peek("session-1") == STATE
        for state, own_fence in kept:
            assert await store.peek(state.session_id) == state
            await store.delete(state.session_id, fence=own_fence)
        await store.save(replace(STATE, tail="x" * 4000), fence=fence, ttl_s=LONG)


async def test_sqlite_on_a_disk_that_fills_up_and_is_cleared(small_disk: Path) -> None:
    async with opened(SqliteSessionStore(small_disk / "sessions.sqlite")) as store:
        fence = await store.create(STATE, owner="a", ttl_s=LONG)
        ballast = fill_up(small_disk)
        promised = STATE
        with pytest.raises(StoreError, match=r"full|disk"):  # noqa: PT012
            for seq in range(1000):
                state = replace(STATE, next_seq=seq, tail=str(seq) * 1000)
                await store.save(state, fence=fence, ttl_s=LONG)
                promised = state
        with pytest.raises(StoreError, match=r"full|disk"):
            await store.ping()
        ballast.unlink()
        await back_again(store)
        assert await store.peek("session-1") == promised
        await store.save(replace(STATE, next_seq=2000), fence=fence, ttl_s=LONG)
        assert await store.peek("session-1") == replace(STATE, next_seq=2000)


async def test_sqlite_file_removed(path: Path) -> None:
    async with opened(SqliteSessionStore(path)) as store:
        fence = await store.create(STATE, owner="a", ttl_s=LONG)
        for file in path.parent.iterdir():
            file.unlink()
        assert await store.peek("session-1") is None
        await store.save(STATE, fence=fence, ttl_s=LONG)
    async with opened(SqliteSessionStore(path)) as store:
        assert await store.peek("session-1") == STATE


async def test_sqlite_that_is_no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"something else entirely" * 1000)
    async with opened(SqliteSessionStore(path)) as store:
        with pytest.raises(StoreError, match="not a database"):
            await store.ping()
        path.unlink()
        await store.ping()


async def test_sqlite_of_a_newer_version(path: Path) -> None:
    async with opened(SqliteSessionStore(path)) as store:
        await store.ping()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    async with opened(SqliteSessionStore(path)) as store:
        with pytest.raises(StoreError, match="newer version"):
            await store.ping()


_SAVER = """
import asyncio, sys
from session_store.base import SessionState
from session_store.factory import open_session_store

async def main():
    store = open_session_store(sys.argv[1])
    state = SessionState("session-1", bytes(32))
    fence = await store.create(state, owner="a", ttl_s=3600)
    for seq in range(1, 1000000):
        await store.save(SessionState("session-1", bytes(32), next_seq=seq), fence=fence, ttl_s=3600)
        print(seq, flush=True)

asyncio.run(main())
"""


async def test_sqlite_keeps_what_it_promised_when_the_process_is_killed(path: Path) -> None:
    url = sqlite_url(path)
    promised = 0
    with subprocess.Popen([sys.executable, "-c", _SAVER, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            promised = int(line)
            if promised == 50:
                os.kill(process.pid, signal.SIGKILL)
    async with opened(open_session_store(url)) as store:
        state = await store.peek("session-1")
    assert isinstance(state, SessionState)
    assert state.next_seq in (promised, promised + 1)


async def test_a_disk_that_hangs_holds_up_neither_the_loop_nor_the_close(path: Path) -> None:
    release = threading.Event()
    async with opened(SqliteSessionStore(path, deadline_s=0.3)) as store:
        assert isinstance(store, SqliteSessionStore)
        fence = await store.create(STATE, owner="a", ttl_s=LONG)

        def hang(_: sqlite3.Connection) -> None:
            release.wait(PATIENCE_S)

        with pytest.raises(StoreError, match="no answer"):
            await store._worker.run(hang)
        await refused(store, fence)
        release.set()
        await back_again(store)
        await store.save(STATE, fence=fence, ttl_s=LONG)
        release.clear()
        with pytest.raises(StoreError, match="no answer"):
            await store._worker.run(hang)
    release.set()


async def test_an_abandoned_call_is_not_carried_out_later(path: Path) -> None:
    """A save that its caller has given up on and that has not begun must not overtake what came after."""
    release = threading.Event()
    async with opened(SqliteSessionStore(path, deadline_s=0.3)) as store:
        assert isinstance(store, SqliteSessionStore)
        fence = await store.create(STATE, owner="a", ttl_s=LONG)
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hang(_: sqlite3.Connection) -> None:
            loop.call_soon_threadsafe(started.set)
            release.wait(PATIENCE_S)

        hanging = asyncio.create_task(store._worker.run(hang))
        await started.wait()
        with pytest.raises(StoreError):
            await store.save(replace(STATE, next_seq=99), fence=fence, ttl_s=LONG)
        release.set()
        with pytest.raises(StoreError):
            await hanging
        await back_again(store)
        assert await store.peek("session-1") == STATE
