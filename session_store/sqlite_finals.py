"""Finals of many sessions in two statements, in SQLite's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from session_store.base import StoreError, UnknownSessionError
from session_store.schema import SQLITE_NOW, finals, sessions

_COLUMNS = tuple(column.name for column in finals.columns)


async def append_finals(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> Sequence[StoreError | None]:
    """Inserts rows of the table of finals, but for those that are there, and brings their sessions up to date.

    Returns for each row why it was not stored, or None. At most 4,000 rows: SQLite takes 32,766 values.
    """
    heard = [(row["session_id"], row["end_s"]) for row in rows]
    known = await connection.exec_driver_sql(
        f"WITH heard (id, end_s) AS (VALUES {_places(2, len(heard))}) "
        f"UPDATE {sessions.name} SET updated_at = {SQLITE_NOW}, "
        "audio_seconds = max(audio_seconds, (SELECT max(end_s) FROM heard WHERE id = session_id)) "
        "WHERE session_id IN (SELECT id FROM heard) RETURNING session_id",
        _flat(heard),
    )
    there = set(known.scalars())
    found = [[row[column] for column in _COLUMNS] for row in rows if row["session_id"] in there]
    if found:
        await connection.exec_driver_sql(
            f"INSERT INTO {finals.name} ({', '.join(_COLUMNS)}) VALUES {_places(len(_COLUMNS), len(found))} "
            "ON CONFLICT DO NOTHING",
            _flat(found),
        )
    return [None if row["session_id"] in there else _unknown(row["session_id"]) for row in rows]


def _places(columns: int, rows: int) -> str:
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


def _flat(rows: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    return tuple(value for row in rows for value in row)


def _unknown(session_id: str) -> UnknownSessionError:
    return UnknownSessionError(f"session {session_id} is not in the transcript store")
