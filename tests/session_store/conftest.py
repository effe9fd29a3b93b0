from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete

from session_store import schema
from session_store.base import SessionStore, TranscriptStore
from session_store.factory import open_session_store, open_transcript_store, sqlite_url
from session_store.sql import SqlTranscriptStore

Opener = Callable[[], SessionStore]

REDIS = pytest.param("redis", marks=pytest.mark.redis)
SQL_SERVERS = [
    pytest.param("mariadb", marks=pytest.mark.mariadb),
    pytest.param("postgresql", marks=pytest.mark.postgresql),
]


@pytest.fixture
def session_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh session store, by the parameter's name."""
    match request.param:
        case "memory":
            return "memory://"
        case "sqlite":
            return sqlite_url(tmp_path / "sessions.sqlite")
    server = request.getfixturevalue("redis_server")
    server.flush()
    return str(server.url)


@pytest.fixture
async def store(session_url: str) -> AsyncIterator[SessionStore]:
    opened = open_session_store(session_url)
    yield opened
    await opened.close()


@pytest.fixture
async def opener(session_url: str) -> AsyncIterator[Opener]:
    """Opens one more store at the same URL, as another gateway would."""
    async with contextlib.AsyncExitStack() as stack:

        def open_one() -> SessionStore:
            opened = open_session_store(session_url)
            stack.push_async_callback(opened.close)
            return opened

        yield open_one


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"left out: mounting a small file system needs root ({mount.stderr.strip()})")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_up(disk: Path) -> Path:
    """Leaves no byte free; removing the file that is returned clears the disk."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(disk).free == 0
    return ballast


@pytest.fixture
def transcript_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return "memory://"
        case "sqlite":
            return sqlite_url(tmp_path / "transcripts.sqlite")
        case "mariadb":
            return str(request.getfixturevalue("mariadb_server").url)
    return str(request.getfixturevalue("postgres_server").url)


@pytest.fixture
async def transcripts(transcript_url: str) -> AsyncIterator[TranscriptStore]:
    """An empty transcript store. Generous deadline: a first migration on a busy machine is not what is tested."""
    opened = open_transcript_store(transcript_url, deadline_s=30)
    if isinstance(opened, SqlTranscriptStore):
        await opened.ping()
        async with opened._engine.begin() as connection:
            await connection.execute(delete(schema.sessions))
    yield opened
    await opened.close()
