from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from session_store.factory import (
    default_session_url,
    default_transcript_url,
    open_session_store,
    open_transcript_store,
    sqlite_path,
    sqlite_url,
)
from session_store.memory import MemorySessionStore, MemoryTranscriptStore


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "MemorySessionStore"),
        ("sqlite:///relative/path.db", "SqliteSessionStore('relative/path.db')"),
        ("sqlite:////absolute/path.db", "SqliteSessionStore('/absolute/path.db')"),
        ("redis://user:s3cret@host:6380/2", "RedisSessionStore('redis://host:6380/2')"),
        ("redis://:s3cret@host", "RedisSessionStore('redis://host:6379/0')"),
        ("rediss://:s3cret@host/1", "RedisSessionStore('redis://host:6379/1')"),
        ("redis://host?password=s3cret", "RedisSessionStore('redis://host:6379/0')"),
        ("unix:///run/redis.sock?password=s3cret", "RedisSessionStore('unix:///run/redis.sock')"),
    ],
)
async def test_session_stores(url: str, shown: str) -> None:
    store = open_session_store(url)
    assert shown in repr(store)
    assert "cret" not in repr(store)
    await store.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "MemoryTranscriptStore"),
        ("sqlite:///relative/path.db", "sqlite:///relative/path.db"),
        ("sqlite+aiosqlite:////absolute/path.db", "sqlite:////absolute/path.db"),
        ("mysql://user:s3cret@host:3307/db", "mysql://host:3307/db"),
        ("mariadb://user:s3cret@host/db", "mysql://host/db"),
        ("mysql+asyncmy://user:s3cret@host/db?ssl=true", "mysql://host/db"),
        ("postgres://user:s3cret@host/db", "postgresql://host/db"),
        ("postgresql://user:s3cret@host/db", "postgresql://host/db"),
        ("postgresql://user:s3/cret@host/db", "postgresql://host/db"),
        ("postgresql+asyncpg://user:s3cret@host/db", "postgresql://host/db"),
    ],
)
async def test_transcript_stores(url: str, shown: str) -> None:
    store = open_transcript_store(url)
    assert shown in repr(store)
    assert "cret" not in repr(store)
    await store.close()


@pytest.mark.parametrize("opening", [open_session_store, open_transcript_store])
@pytest.mark.parametrize(
    ("url", "help_"),
    [
        ("", "has no scheme"),
        ("s3cret", "has no scheme"),
        ("user:s3cret@host", "has no scheme"),
        ("mongodb://user:s3cret@host", r"mongodb:// is not a kind of .* store: use memory://"),
        ("sqlite://", "sqlite:///relative/path"),
        ("sqlite:///", "sqlite:///relative/path"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://host/path", "sqlite:///relative/path"),
        ("redis://user:s3cret@host:port/0", "redis"),
        ("mysql://user:s3cret@host", "mysql"),
        ("mysql://user:s3cret@host:port/db", "mysql"),
        ("postgresql:///db?password=s3cret", "postgresql"),
        ("postgresql://user:s3@cret@host/db", "postgresql"),
        ("redis://user:1#s3cret@host", "redis"),
        ("redis://user:s3/cret@host", "redis"),
        ("redis://[s3cret", "redis"),
        ("mysql+pymysql://user:s3cret@host/db", r"mysql\+pymysql"),
    ],
)
def test_other_urls_are_refused_and_say_what_to_write(opening: Callable[[str], object], url: str, help_: str) -> None:
    with pytest.raises(ValueError, match=help_) as caught:
        opening(url)
    shown = f"{caught.value!r} {caught.value.__cause__!r}"
    assert "cret" not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_memory_stores_are_of_memory() -> None:
    assert isinstance(open_session_store("memory://"), MemorySessionStore)
    assert isinstance(open_transcript_store("memory://"), MemoryTranscriptStore)


@pytest.mark.parametrize("path", ["a b/c%20d/e#f?g.db", "/abs/ü.db", "x.db"])
def test_a_path_with_anything_in_it_comes_back_whole(path: str) -> None:
    assert sqlite_path(sqlite_url(Path(path))) == Path(path)
    assert sqlite_path("redis://host") is None


def test_defaults_are_files_in_the_state_folder() -> None:
    assert sqlite_path(default_session_url(Path("/state"))) == Path("/state/sessions.sqlite")
    assert sqlite_path(default_transcript_url(Path("/state"))) == Path("/state/transcripts.sqlite")
