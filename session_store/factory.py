"""Stores from URLs."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from session_store.base import DEFAULT_DEADLINE_S, SessionStore, TranscriptStore
from session_store.memory import MemorySessionStore, MemoryTranscriptStore
from session_store.sqlite import SqliteSessionStore

_SESSION_FORMS = "memory://, sqlite:///relative/path, sqlite:////absolute/path or redis://[user:password@]host:port/0"
_TRANSCRIPT_FORMS = (
    "memory://, sqlite:///relative/path, sqlite:////absolute/path, mysql://user:password@host:port/database "
    "or postgresql://user:password@host:port/database"
)
_DRIVERS = {
    "mysql": "mysql+asyncmy",
    "mariadb": "mysql+asyncmy",
    "mysql+asyncmy": "mysql+asyncmy",
    "mariadb+asyncmy": "mysql+asyncmy",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


def open_session_store(url: str, *, deadline_s: float = DEFAULT_DEADLINE_S) -> SessionStore:
    """The session store at `url`. Connects on first use, so a store that is down now is no error.

    Args:
        url: ``memory://``, ``sqlite:///path``, ``redis://…``, ``rediss://…`` (TLS) or ``unix://…`` (Redis).
        deadline_s: longest wait of a call, before `StoreError`.

    Raises:
        ValueError: no such kind of store; the text says which there are, and holds nothing of the URL but its scheme.
    """
    scheme = _scheme(url)
    if scheme == "memory":
        return MemorySessionStore()
    if scheme == "sqlite":
        return SqliteSessionStore(_sqlite_path(url), deadline_s=deadline_s)
    if scheme in ("redis", "rediss", "unix"):
        from session_store.redis import RedisSessionStore

        if "#" in url:  # the parser would drop it and what follows, and take what precedes for the host
            raise _malformed("session store", scheme, "0")
        try:
            return RedisSessionStore(url, deadline_s=deadline_s)
        except (ValueError, TypeError):
            # The parser's own text may quote the part that holds the password.
            raise _malformed("session store", scheme, "0") from None
    raise _unknown("session store", scheme, _SESSION_FORMS)


def open_transcript_store(url: str, *, deadline_s: float = DEFAULT_DEADLINE_S, pool_size: int = 5) -> TranscriptStore:
    """The transcript store at `url`. Connects, and brings the schema up to date, on first use.

    Args:
        url: ``memory://``, ``sqlite:///path``, ``mysql://…`` (MariaDB or MySQL) or ``postgresql://…``.
        deadline_s: longest wait of a call, before `StoreError`.
        pool_size: most connections to the database at a time.

    Raises:
        ValueError: as `open_session_store`.
    """
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    from session_store.sql import SqlTranscriptStore
    from session_store.sql_engine import SqlTarget

    scheme = _scheme(url)
    if scheme == "memory":
        return MemoryTranscriptStore()
    if scheme in ("sqlite", "sqlite+aiosqlite"):
        parsed = URL.create("sqlite+aiosqlite", database=str(_sqlite_path(url)))
    elif scheme in _DRIVERS:
        try:
            parsed = make_url(_DRIVERS[scheme] + url[url.index("://") :])
        except (ArgumentError, ValueError):
            # The parser's own text may quote the part that holds the password.
            raise _malformed("transcript store", scheme, "database") from None
        # An @ left over is one of the password's, and what precedes it would pass for the host, and be shown.
        if not parsed.host or "@" in parsed.host or not parsed.database:
            raise _malformed("transcript store", scheme, "database")
    else:
        raise _unknown("transcript store", scheme, _TRANSCRIPT_FORMS)
    return SqlTranscriptStore(SqlTarget(parsed), deadline_s=deadline_s, pool_size=pool_size)


def sqlite_url(path: Path) -> str:
    """The URL of a file."""
    return f"sqlite:///{quote(str(path))}"


def default_session_url(state_dir: Path) -> str:
    """Where session state is kept unless the settings say otherwise."""
    return sqlite_url(state_dir / "sessions.sqlite")


def default_transcript_url(state_dir: Path) -> str:
    """Where transcripts are kept unless the settings say otherwise."""
    return sqlite_url(state_dir / "transcripts.sqlite")


def sqlite_path(url: str) -> Path | None:
    """The file of a ``sqlite://`` URL; None for any other URL."""
    return _sqlite_path(url) if _scheme(url) in ("sqlite", "sqlite+aiosqlite") else None


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator and scheme.replace("+", "").isalnum() else ""


def _sqlite_path(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path[1:])
    if parts.netloc or not path or parts.query or path == ":memory:":
        raise ValueError(
            "sqlite URL: write sqlite:///relative/path or sqlite:////absolute/path; for no file at all, memory://"
        )
    return Path(path)


def _malformed(what: str, scheme: str, database: str) -> ValueError:
    return ValueError(
        f"{what}: the {scheme} URL has not the form {scheme}://user:password@host:port/{database} "
        "(special characters in user or password must be percent-encoded)"
    )


def _unknown(what: str, scheme: str, forms: str) -> ValueError:
    named = f"{scheme}:// is not a kind of {what}" if scheme else f"the URL of the {what} has no scheme"
    return ValueError(f"{named}: use {forms}")
