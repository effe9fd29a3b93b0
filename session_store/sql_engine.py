"""SQLAlchemy engines for the transcript store: which driver, which connection settings, which error means what."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from session_store.sqlite_worker import make_private_file

READS_ONLY = "starling_reads_only"
"""Execution option of a connection whose transaction will not write."""

_RETRYABLE_SQLSTATES = {"40001", "40P01"}  # PostgreSQL: serialization failure, deadlock
_RETRYABLE_MYSQL = {1205, 1213}  # lock wait timeout, deadlock


@dataclass(frozen=True, slots=True)
class SqlTarget:
    """A database, by a URL with the asynchronous driver in it.

    Attributes:
        url: may hold a password; never shown.
        max_pages: SQLite only: limit of the file in pages of 4 KiB, 0 for none.
    """

    url: URL = field(repr=False)
    max_pages: int = 0

    @property
    def name(self) -> str:
        """The database as it may be shown: no user, password or options."""
        url = self.url
        if url.get_backend_name() == "sqlite":
            return f"sqlite:///{url.database}"
        return URL.create(url.get_backend_name(), None, None, url.host, url.port, url.database).render_as_string()


def make_engine(target: SqlTarget, *, deadline_s: float, pool_size: int) -> AsyncEngine:
    """An engine whose connections are bounded in number and in the time they wait for."""
    backend = target.url.get_backend_name()
    engine = create_async_engine(
        target.url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=deadline_s,
        # The text of a failed statement's parameters is what somebody said: not for a log.
        hide_parameters=True,
        connect_args=_connect_args(backend, deadline_s),
    )
    if backend == "sqlite":
        _prepare_sqlite(engine, target)
    return engine


def is_transient(exc: BaseException) -> bool:
    """Whether the same transaction may well succeed at once: the connection had died, or a deadlock was broken."""
    if not isinstance(exc, DBAPIError):
        return False
    if exc.connection_invalidated:
        return True
    if getattr(exc.orig, "sqlstate", None) in _RETRYABLE_SQLSTATES:
        return True
    code = exc.orig.args[0] if exc.orig is not None and exc.orig.args else None
    return code in _RETRYABLE_MYSQL


def driver_errors(backend: str) -> tuple[type[Exception], ...]:
    """What may come out of an engine when its server is away or unwilling. SQLAlchemy wraps no connect error."""
    errors: tuple[type[Exception], ...] = (SQLAlchemyError, OSError, EOFError, TimeoutError)
    if backend == "postgresql":
        import asyncpg  # type: ignore[import-untyped]

        return (*errors, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
    if backend == "mysql":
        from asyncmy.errors import MySQLError

        return (*errors, MySQLError)
    return (*errors, sqlite3.Error)


def _connect_args(backend: str, deadline_s: float) -> Mapping[str, Any]:
    if backend == "postgresql":
        return {"timeout": deadline_s, "server_settings": {"application_name": "starling"}}
    if backend == "mysql":
        # UTC, because a local time that is set back says the same hour twice.
        return {
            "connect_timeout": max(1, math.ceil(deadline_s)),
            "charset": "utf8mb4",
            "init_command": "SET time_zone = '+00:00'",
        }
    return {"timeout": deadline_s, "isolation_level": None}


def _prepare_sqlite(engine: AsyncEngine, target: SqlTarget) -> None:
    path = Path(target.url.database or "")

    @event.listens_for(engine.sync_engine, "do_connect")
    def make_file(*_: Any) -> None:
        make_private_file(path)

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        # FULL: what is committed survives a loss of power; see `SqliteWorker`.
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        if target.max_pages:
            cursor.execute(f"PRAGMA max_page_count = {target.max_pages}")
        cursor.close()

    # The driver would begin only before the first write, and with a lock that it cannot always raise.
    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get(READS_ONLY, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
