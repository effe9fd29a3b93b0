"""The tables of the transcript store, as the newest migration leaves them, for all three kinds of SQL server."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from session_store.codec import MAX_ID_CHARS

MAX_LABEL_CHARS = 1000
MAX_LANGUAGE_CHARS = 64

# MySQL's usual collations hold "a" and "A" for the same key; two sessions must not be taken for one.
IDENTIFIER = String(MAX_ID_CHARS).with_variant(mysql.VARCHAR(MAX_ID_CHARS, collation="utf8mb4_bin"), "mysql")
# MySQL's TEXT ends at 64 KiB.
LONG_TEXT = Text().with_variant(mysql.LONGTEXT(), "mysql")

VERSION_TABLE = "starling_schema"

# The server's own default may be Latin-1.
_MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_engine": "InnoDB"}

metadata = MetaData()

sessions = Table(
    "starling_sessions",
    metadata,
    Column("session_id", IDENTIFIER, primary_key=True),
    Column("key_id", IDENTIFIER, nullable=False),
    Column("label", LONG_TEXT, nullable=False),
    Column("language", String(MAX_LANGUAGE_CHARS), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("audio_seconds", Double, nullable=False),
    Column("ended", Boolean, nullable=False),
    Index("ix_starling_sessions_created", "created_at"),
    Index("ix_starling_sessions_key", "key_id", "created_at"),
    Index("ix_starling_sessions_updated", "updated_at"),
    **_MYSQL,
)

finals = Table(
    "starling_finals",
    metadata,
    Column("session_id", ForeignKey(sessions.c.session_id, ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("text", LONG_TEXT, nullable=False),
    Column("start_s", Double, nullable=False),
    Column("end_s", Double, nullable=False),
    Column("language", String(MAX_LANGUAGE_CHARS), nullable=False),
    Column("confidence", Double, nullable=False),
    Column("punctuated", Boolean, nullable=False),
    **_MYSQL,
)

heartbeat = Table(
    "starling_heartbeat",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    **_MYSQL,
)


class server_now(GenericFunction[float]):  # noqa: N801  a SQL function, and named like one
    """UNIX seconds by the server's clock, so that gateways with differing clocks agree."""

    type = Double()
    inherit_cache = True


SQLITE_NOW = "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(server_now, "sqlite")
def _sqlite_now(element: server_now, compiler: Any, **kwargs: Any) -> str:
    return SQLITE_NOW


@compiles(server_now, "mysql")
def _mysql_now(element: server_now, compiler: Any, **kwargs: Any) -> str:
    return "UNIX_TIMESTAMP(NOW(6))"


@compiles(server_now, "postgresql")
def _postgresql_now(element: server_now, compiler: Any, **kwargs: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
