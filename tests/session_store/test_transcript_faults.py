"""Transcript stores that are away, slow, full, or set up by several gateways at once."""

# The event loop has nothing else to do while a test makes files and processes.

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection

from session_store.base import Final, StoreError, TranscriptStore
from session_store.factory import open_transcript_store, sqlite_url
from session_store.migrations import HEAD
from session_store.sql import SqlTranscriptStore
from session_store.sql_engine import SqlTarget
from tests.servers.mariadb import MariadbServer
from tests.servers.postgres import PostgresServer
from tests.session_store.conftest import SQL_SERVERS, fill_up

FINAL = Final(0, "It was the best of times.", 0.25, 1.125, "en", 0.875, True)
# Generous against the deadlines of 0.3 to 1 s below: what must not happen is a call that hangs.
PATIENCE_S = 20.0

SqlServer = MariadbServer | PostgresServer
servers = pytest.mark.parametrize("server", SQL_SERVERS, indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[SqlServer]:
    """The shared server, which is running and answering again after the test."""
    name = {"mariadb": "mariadb_server", "postgresql": "postgres_server"}[request.param]
    shared: SqlServer = request.getfixturevalue(name)
    yield shared
    shared.resume()
    if not shared.is_ready():
        shared.start()


@contextlib.asynccontextmanager
async def opened(store: TranscriptStore) -> AsyncIterator[TranscriptStore]:
    try:
        yield store
    finally:
        async with asyncio.timeout(PATIENCE_S):
            await store.close()


@contextlib.asynccontextmanager
async def prepared(url: str, *, deadline_s: float) -> AsyncIterator[TranscriptStore]:
    """A store with the session "s" and one final in it."""
    async with opened(open_transcript_store(url, deadline_s=30)) as patient:
        await patient.purge(older_than_s=-3600)
        await patient.open_session("s", label="", language="en", key_id="")
        await patient.append("s", FINAL)
    async with opened(open_transcript_store(url, deadline_s=deadline_s)) as store:
        yield store


async def refused(store: TranscriptStore) -> None:
    """Every operation ends in a StoreError, and soon."""
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(
            store.open_session("t", label="", language="en", key_id=""),
            store.append("s", replace(FINAL, seq=1)),
            store.finals("s"),
            store.end_session("s", audio_seconds=1.0),
            store.sessions(),
            store.session("s"),
            store.owner("s"),
            store.delete_session("t"),
            store.purge(older_than_s=3600),
            store.ping(),
            return_exceptions=True,
        )
    for outcome in outcomes:
        assert isinstance(outcome, StoreError), outcome
        shown = str(outcome) + repr(outcome.__cause__)
        for secret in ("p@ss", "p%40ss", "w0rd", FINAL.text):
            assert secret not in shown


async def back_again(store: TranscriptStore) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await store.ping()
            except StoreError:
                await asyncio.sleep(0.05)


@servers
async def test_server_killed_and_restarted(server: SqlServer) -> None:
    async with prepared(server.url, deadline_s=10) as store:
        await store.ping()
        server.kill()
        await refused(store)
        server.start()
        await back_again(store)
        assert await store.finals("s") == [FINAL]
        await store.append("s", replace(FINAL, seq=1))
        assert [final.seq for final in await store.finals("s")] == [0, 1]


@servers
async def test_dead_connections_cost_no_call(server: SqlServer) -> None:
    """The server went away and came back while nobody asked: every connection in the pool is dead."""
    async with prepared(server.url, deadline_s=10) as store:
        await asyncio.gather(*(store.finals("s") for _ in range(20)))
        server.kill()
        server.start()
        outcomes = await asyncio.gather(*(store.append("s", replace(FINAL, seq=n)) for n in range(1, 9)))
        assert outcomes == [None] * 8
        assert [final.seq for final in await store.finals("s")] == list(range(9))


@servers
async def test_server_paused(server: SqlServer) -> None:
    async with prepared(server.url, deadline_s=0.3) as store:
        await back_again(store)
        server.pause()
        await refused(store)
        server.resume()
        await back_again(store)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(StoreError):
                    await store.append("s", replace(FINAL, seq=1))
                    break
        assert [final.seq for final in await store.finals("s")] == [0, 1]


@servers
async def test_closing_while_the_server_is_paused(server: SqlServer) -> None:
    async with prepared(server.url, deadline_s=0.3) as store:
        await back_again(store)
        server.pause()
        with pytest.raises(StoreError):
            await store.ping()


@servers
async def test_server_away_at_the_start(server: SqlServer) -> None:
    server.kill()
    async with opened(open_transcript_store(server.url, deadline_s=1)) as store:
        await refused(store)
        server.start()
        await back_again(store)


@servers
async def test_wrong_password_shows_no_password(server: SqlServer) -> None:
    async with opened(open_transcript_store(server.url.replace("w0rd", "wr0ng"), deadline_s=10)) as store:
        with pytest.raises(StoreError, match=r"starling") as caught:
            await store.ping()
        assert "wr0ng" not in str(caught.value)
        assert "w0rd" not in repr(store)


@servers
async def test_two_gateways_write_the_same_session(server: SqlServer) -> None:
    """The old owner of a session and the new one may both store the same finals: no deadlock, none twice."""
    async with prepared(server.url, deadline_s=20) as one, opened(open_transcript_store(server.url)) as two:
        await two.ping()
        calls = [store.append("s", replace(FINAL, seq=n % 10)) for n in range(40) for store in (one, two)]
        await asyncio.gather(*calls)
        assert [final.seq for final in await one.finals("s")] == list(range(10))


# Migrations


_GATEWAY = """
import asyncio, sys
from session_store.base import Final
from session_store.factory import open_transcript_store

async def start(url, name):
    store = open_transcript_store(url, deadline_s=60)
    await store.open_session(name, label="", language="en", key_id="")
    await store.append(name, Final(0, "Text.", 0.0, 1.0, "en", 0.5, True))
    await store.close()

print("ready", flush=True)
for line in sys.stdin:
    asyncio.run(start(line.strip(), sys.argv[1]))
    print("stored", flush=True)
"""


@pytest.fixture(scope="module")
def gateways() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that start a store for each URL they are told; started once, because importing takes long."""
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(2):
            command = [sys.executable, "-c", _GATEWAY, f"g{number}"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes


async def _drop_everything(url: str) -> None:
    store = open_transcript_store(url)
    assert isinstance(store, SqlTranscriptStore)
    async with opened(store), store._engine.begin() as connection:
        for table in ("heartbeat", "finals", "sessions", "schema"):
            await connection.execute(text(f"DROP TABLE IF EXISTS starling_{table}"))


def _url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "transcripts.sqlite")
    fixture = {"mariadb": "mariadb_server", "postgresql": "postgres_server"}[request.param]
    return str(request.getfixturevalue(fixture).url)


@pytest.fixture
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = _url(request, tmp_path)
    if request.param != "sqlite":
        await _drop_everything(url)
    return url


databases = pytest.mark.parametrize("empty_url", ["sqlite", *SQL_SERVERS], indirect=True)


@databases
async def test_gateways_that_start_at_once_migrate_once(empty_url: str, gateways: list[subprocess.Popen[str]]) -> None:
    for gateway in gateways:
        assert gateway.stdin is not None
        gateway.stdin.write(f"{empty_url}\n")
        gateway.stdin.flush()
    for gateway in gateways:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == "stored\n"
    async with opened(open_transcript_store(empty_url)) as store:
        assert {summary.session_id: summary.finals for summary in await store.sessions()} == {
            f"g{number}": 1 for number in range(2)
        }


@databases
async def test_the_tables_are_those_that_the_code_knows(empty_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

    from session_store.schema import VERSION_TABLE, metadata

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, metadata))

    config = Config()
    config.set_main_option("script_location", "session_store:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
    store = open_transcript_store(empty_url, deadline_s=60)
    assert isinstance(store, SqlTranscriptStore)
    async with opened(store):
        await store.ping()
        async with store._engine.connect() as connection:
            assert await connection.run_sync(differences) == []


@databases
async def test_a_database_of_a_newer_version_is_refused(empty_url: str) -> None:
    store = open_transcript_store(empty_url, deadline_s=60)
    assert isinstance(store, SqlTranscriptStore)
    async with opened(store):
        await store.ping()
        async with store._engine.begin() as connection:
            await connection.execute(text("UPDATE starling_schema SET version_num = '9999'"))
    async with opened(open_transcript_store(empty_url, deadline_s=60)) as older:
        with pytest.raises(StoreError, match="newer version"):
            await older.ping()
    await _drop_everything(empty_url)


@databases
async def test_a_migration_that_was_cut_short_is_finished(empty_url: str) -> None:
    """MySQL keeps the tables made so far; the others roll them back, and nobody else's table is in the way."""
    store = open_transcript_store(empty_url, deadline_s=60)
    assert isinstance(store, SqlTranscriptStore)
    async with opened(store):
        await store.ping()
        async with store._engine.begin() as connection:
            await connection.execute(text("DROP TABLE starling_heartbeat"))
            await connection.execute(text("DROP TABLE starling_schema"))
    async with opened(open_transcript_store(empty_url, deadline_s=60)) as again:
        await again.ping()
        await again.open_session("s", label="", language="en", key_id="")
        await again.append("s", FINAL)


# SQLite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "transcripts.sqlite"


async def test_sqlite_files_are_private(path: Path) -> None:
    async with prepared(sqlite_url(path), deadline_s=10) as store:
        await store.ping()
        assert {file.stat().st_mode & 0o077 for file in (path.parent, *path.parent.iterdir())} == {0}


async def test_sqlite_locked_by_another(path: Path) -> None:
    async with prepared(sqlite_url(path), deadline_s=0.3) as store:
        await back_again(store)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError):
            await store.append("s", replace(FINAL, seq=1))
        # Readers need not wait for a writer.
        assert await store.finals("s") == [FINAL]
        other.execute("ROLLBACK")
        other.close()
        await back_again(store)
        await store.append("s", replace(FINAL, seq=2))


async def test_sqlite_on_a_full_disk(path: Path) -> None:
    target = SqlTarget(URL.create("sqlite+aiosqlite", database=str(path)), max_pages=40)
    async with opened(SqlTranscriptStore(target, deadline_s=10)) as store:
        for session_id in ("s", "t"):
            await store.open_session(session_id, label="", language="en", key_id="")
        await store.append("s", FINAL)
        stored = 0
        with pytest.raises(StoreError, match="full"):  # noqa: PT012
            for seq in range(100):
                await store.append("t", replace(FINAL, seq=seq, text="x" * 3000))
                stored += 1
        # Exactly what was promised is there, and room made is room used.
        assert [final.seq for final in await store.finals("t")] == list(range(stored))
        assert stored
        assert await store.delete_session("t")
        await store.append("s", replace(FINAL, seq=1, text="x" * 3000))
        assert [final.seq for final in await store.finals("s")] == [0, 1]


async def test_sqlite_on_a_disk_that_fills_up_and_is_cleared(small_disk: Path) -> None:
    async with prepared(sqlite_url(small_disk / "transcripts.sqlite"), deadline_s=10) as store:
        await store.ping()
        ballast = fill_up(small_disk)
        promised = 0
        with pytest.raises(StoreError, match=r"full|disk"):  # noqa: PT012
            for seq in range(1, 1000):
                await store.append("s", replace(FINAL, seq=seq, text="x" * 3000))
                promised = seq
        with pytest.raises(StoreError, match=r"full|disk"):
            await store.ping()
        assert [final.seq for final in await store.finals("s")] == list(range(promised + 1))
        ballast.unlink()
        await back_again(store)
        await store.append("s", replace(FINAL, seq=promised + 1))
        assert [final.seq for final in await store.finals("s")] == list(range(promised + 2))


async def test_sqlite_write_transactions_begin_with_the_lock(path: Path) -> None:
    """Else one that reads first is refused at its first write, if another process wrote in between."""
    async with prepared(sqlite_url(path), deadline_s=10) as store:
        assert isinstance(store, SqlTranscriptStore)
        await store.ping()

        async def work(connection: AsyncConnection) -> None:
            other = sqlite3.connect(path, isolation_level=None, timeout=0)
            with contextlib.closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("DELETE FROM starling_sessions")

        await store._write(work)


async def test_one_bad_append_does_not_spoil_its_batch(path: Path) -> None:
    async with prepared(sqlite_url(path), deadline_s=10) as store:
        calls = [
            store.append("unknown" if seq % 3 == 0 else "s", replace(FINAL, seq=seq, text=str(seq)))
            for seq in range(1, 31)
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType", "NoneType", "UnknownSessionError"] * 10
        assert [final.seq for final in await store.finals("s")] == [0, *(n for n in range(1, 31) if n % 3)]


async def test_an_impatient_caller_does_not_spoil_its_batch(path: Path) -> None:
    async with prepared(sqlite_url(path), deadline_s=10) as store:
        await store.ping()
        calls = [asyncio.create_task(store.append("s", replace(FINAL, seq=seq))) for seq in range(1, 21)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[1::2]] == [type(None)] * 10
        assert {final.seq for final in await store.finals("s")} >= {0, *range(2, 21, 2)}


_APPENDER = """
import asyncio, sys
from session_store.base import Final
from session_store.factory import open_transcript_store

async def main():
    store = open_transcript_store(sys.argv[1], deadline_s=30)
    await store.open_session("s", label="", language="en", key_id="")
    for seq in range(1000000):
        await store.append("s", Final(seq, "Text.", 0.0, 1.0, "en", 0.5, True))
        print(seq, flush=True)

asyncio.run(main())
"""


async def test_sqlite_keeps_what_it_promised_when_the_process_is_killed(path: Path) -> None:
    url = sqlite_url(path)
    promised = -1
    with subprocess.Popen([sys.executable, "-c", _APPENDER, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            promised = int(line)
            if promised == 30:
                os.kill(process.pid, signal.SIGKILL)
    async with opened(open_transcript_store(url, deadline_s=30)) as store:
        stored = [final.seq for final in await store.finals("s")]
    assert stored in (list(range(promised + 1)), list(range(promised + 2)))
