"""Brings a transcript database to the newest schema, safely when several gateways start at once."""

from __future__ import annotations

import asyncio
import threading

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from session_store.base import StoreError
from session_store.migrations import HEAD
from session_store.schema import VERSION_TABLE
from session_store.sql_engine import SqlTarget, make_engine

MIGRATION_DEADLINE_S = 60.0
"""Longest time for a migration, the wait for another gateway that migrates included."""

_LOCK_NAME = "starling_schema"
_LOCK_NUMBER = 0x5354524C  # the same for PostgreSQL, which names its locks by number

# Alembic keeps the present migration in global variables.
_one_at_a_time = threading.Lock()


async def is_current(connection: AsyncConnection) -> bool:
    """Whether the database is at the newest schema; false where it has none yet."""
    try:
        rows = await connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    except SQLAlchemyError as exc:
        if getattr(exc, "connection_invalidated", False):
            raise
        return False
    return rows.scalars().all() == [HEAD]


async def migrate(target: SqlTarget) -> None:
    """Runs the missing migrations under a lock of the database's own.

    Works in a thread with an event loop of its own: Alembic's own work would hold up every session of the gateway.

    Raises:
        StoreError: the database's schema is newer than this program.
    """
    await asyncio.to_thread(_migrate_blocking, target)


def _migrate_blocking(target: SqlTarget) -> None:
    with _one_at_a_time:
        asyncio.run(_migrate(target))


async def _migrate(target: SqlTarget) -> None:
    engine = make_engine(target, deadline_s=MIGRATION_DEADLINE_S, pool_size=1)
    try:
        async with asyncio.timeout(MIGRATION_DEADLINE_S), engine.begin() as connection:
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    _take_lock(connection)
    config = Config()
    config.set_main_option("script_location", "session_store:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        raise StoreError(
            f"the transcript database's schema is not one of this version's (newest: {HEAD}): it was written by a "
            f"newer version; upgrade, or use another database ({exc})"
        ) from exc


def _take_lock(connection: Connection) -> None:
    """Both kinds of lock end with the connection. SQLite needs none: its transaction began with the write lock."""
    name = connection.dialect.name
    if name == "mysql":
        got = connection.execute(
            text("SELECT GET_LOCK(:name, :wait)"), {"name": _LOCK_NAME, "wait": int(MIGRATION_DEADLINE_S)}
        )
        if got.scalar() != 1:
            raise StoreError("another gateway has been migrating the transcript database for too long")
    elif name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
