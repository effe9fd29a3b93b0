"""Transcripts in SQLite (the default), MariaDB or MySQL, or PostgreSQL."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Insert, Row, Table, case, delete, false, func, literal, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from session_store.base import DEFAULT_DEADLINE_S, Final, SessionSummary, Spare, StoreError, UnknownSessionError
from session_store.codec import check_id, clean_text, is_id
from session_store.group_commit import GroupCommit, Work
from session_store.migrate import is_current, migrate
from session_store.schema import MAX_LABEL_CHARS, MAX_LANGUAGE_CHARS, finals, heartbeat, server_now, sessions
from session_store.sql_engine import READS_ONLY, SqlTarget, driver_errors, is_transient, make_engine
from session_store.sqlite_finals import append_finals

T = TypeVar("T")

_ATTEMPTS = 3
_PURGE_BATCH = 500


class SqlTranscriptStore:
    """`TranscriptStore` in a SQL database. Every call is one transaction, repeatable without harm.

    The schema is made or brought up to date by the first call that reaches the server. A call whose connection
    turns out to be dead, or that loses a deadlock, is tried again within its deadline.

    Args:
        target: the database.
        deadline_s: longest wait of a call, before `StoreError`.
        pool_size: most connections at a time; calls beyond wait for one.
    """

    def __init__(self, target: SqlTarget, *, deadline_s: float = DEFAULT_DEADLINE_S, pool_size: int = 5) -> None:
        self._target = target
        self._deadline_s = deadline_s
        self._engine = make_engine(target, deadline_s=deadline_s, pool_size=pool_size)
        self._errors = driver_errors(target.url.get_backend_name())
        is_sqlite = target.url.get_backend_name() == "sqlite"
        self._group = GroupCommit(self._engine) if is_sqlite else None
        self._is_current = False
        self._migration: asyncio.Task[None] | None = None
        self._leftovers: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"SqlTranscriptStore({self._target.name!r})"

    async def open_session(self, session_id: str, *, label: str, language: str, key_id: str) -> None:
        """See `TranscriptStore.open_session`."""
        row = {
            "session_id": check_id(session_id),
            "key_id": check_id(key_id, "key_id", may_be_empty=True),
            "label": clean_text(label)[:MAX_LABEL_CHARS],
            "language": clean_text(language)[:MAX_LANGUAGE_CHARS],
            "created_at": server_now(),
            "updated_at": server_now(),
            "audio_seconds": 0.0,
            "ended": False,
        }

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(self._insert_new(sessions, row, "session_id"))

        await self._write(work)

    async def append(self, session_id: str, final: Final) -> None:
        """See `TranscriptStore.append`."""
        row = {
            "session_id": session_id,
            "seq": final.seq,
            "text": clean_text(final.text),
            "start_s": final.start,
            "end_s": final.end,
            "language": clean_text(final.language)[:MAX_LANGUAGE_CHARS],
            "confidence": final.confidence if math.isfinite(final.confidence) else 0.0,
            "punctuated": final.punctuated,
        }

        async def work(connection: AsyncConnection) -> None:
            # First the session's row: it locks out a second writer, who would otherwise deadlock on it.
            await _update_session(connection, session_id, audio_seconds=_at_least(final.end))
            await connection.execute(self._insert_new(finals, row, "seq"))

        group = self._group
        if group is None:
            await self._write(work)
        else:
            await self._in_time(self._attempt(lambda: group.run_jointly(append_finals, row)))

    async def finals(self, session_id: str, *, after: int = -1) -> Sequence[Final]:
        """See `TranscriptStore.finals`."""
        query = select(finals).where(_is(finals, session_id), finals.c.seq > after).order_by(finals.c.seq)

        async def work(connection: AsyncConnection) -> list[Final]:
            return [_final(row) for row in await connection.execute(query)]

        return await self._read(work)

    async def last_final(self, session_id: str) -> Final | None:
        """See `TranscriptStore.last_final`. Reads one row: the end of the primary key's index."""
        query = select(finals).where(_is(finals, session_id)).order_by(finals.c.seq.desc()).limit(1)

        async def work(connection: AsyncConnection) -> Final | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _final(row)

        return await self._read(work)

    async def end_session(self, session_id: str, *, audio_seconds: float) -> None:
        """See `TranscriptStore.end_session`."""

        async def work(connection: AsyncConnection) -> None:
            await _update_session(connection, session_id, audio_seconds=_at_least(audio_seconds), ended=True)

        await self._write(work)

    async def sessions(self, *, limit: int = 100, key_id: str | None = None) -> Sequence[SessionSummary]:
        """See `TranscriptStore.sessions`."""
        query = _summaries().order_by(sessions.c.created_at.desc(), sessions.c.session_id).limit(limit)
        if key_id is not None:
            query = query.where(sessions.c.key_id == key_id)

        async def work(connection: AsyncConnection) -> list[SessionSummary]:
            return [_summary(row) for row in await connection.execute(query)]

        return await self._read(work)

    async def session(self, session_id: str) -> SessionSummary | None:
        """See `TranscriptStore.session`."""

        async def work(connection: AsyncConnection) -> SessionSummary | None:
            row = (await connection.execute(_summaries().where(_is(sessions, session_id)))).one_or_none()
            return None if row is None else _summary(row)

        return await self._read(work)

    async def owner(self, session_id: str) -> str | None:
        """See `TranscriptStore.owner`."""

        async def work(connection: AsyncConnection) -> str | None:
            return await connection.scalar(select(sessions.c.key_id).where(_is(sessions, session_id)))

        return await self._read(work)

    async def delete_session(self, session_id: str) -> bool:
        """See `TranscriptStore.delete_session`."""

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(delete(sessions).where(_is(sessions, session_id)))).rowcount > 0

        return await self._write(work)

    async def purge(self, *, older_than_s: float, spare: Spare | None = None) -> int:
        """See `TranscriptStore.purge`. Works in small transactions, each with a deadline of its own."""
        is_old = sessions.c.updated_at < server_now() - older_than_s
        purged = stayed = 0
        while True:
            found = await self._find_old(is_old, skip=stayed)
            kept = await spare(found) if spare is not None and found else ()
            gone = await self._delete_old(is_old, [session_id for session_id in found if session_id not in kept])
            purged += gone
            stayed += len(found) - gone
            if len(found) < _PURGE_BATCH:
                return purged

    async def _find_old(self, is_old: ColumnElement[bool], *, skip: int) -> Sequence[str]:
        order = sessions.c.updated_at, sessions.c.session_id
        query = select(sessions.c.session_id).where(is_old).order_by(*order).offset(skip).limit(_PURGE_BATCH)

        async def work(connection: AsyncConnection) -> Sequence[str]:
            return (await connection.scalars(query)).all()

        return await self._read(work)

    async def _delete_old(self, is_old: ColumnElement[bool], session_ids: list[str]) -> int:
        async def work(connection: AsyncConnection) -> int:
            # One that was updated since they were found is old no more.
            doomed = delete(sessions).where(sessions.c.session_id.in_(session_ids), is_old)
            return (await connection.execute(doomed)).rowcount

        return await self._write(work) if session_ids else 0

    async def ping(self) -> None:
        """See `TranscriptStore.ping`: writes, so that a full disk or a read-only replica shows."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(update(heartbeat).values(at=server_now()))

        await self._write(work)

    async def close(self) -> None:
        """See `TranscriptStore.close`."""
        leftovers = [*self._leftovers, *([self._migration] if self._migration else [])]
        if self._group is not None:
            await self._group.close(self._deadline_s)
        if leftovers:
            await asyncio.wait(leftovers, timeout=self._deadline_s)
        # A server that hangs does not answer a polite farewell either.
        disposal = asyncio.create_task(self._engine.dispose())
        await asyncio.wait({disposal}, timeout=self._deadline_s)
        disposal.cancel()

    async def _write(self, work: Work[T]) -> T:
        group = self._group
        if group is not None:
            return await self._in_time(self._attempt(lambda: group.run(work)))
        return await self._in_time(self._attempt(lambda: self._transact(work, reads_only=False)))

    async def _read(self, work: Work[T]) -> T:
        return await self._in_time(self._attempt(lambda: self._transact(work, reads_only=True)))

    async def _transact(self, work: Work[T], *, reads_only: bool) -> T:
        async with self._engine.connect() as connection:
            await connection.execution_options(**{READS_ONLY: reads_only})
            async with connection.begin():
                return await work(connection)

    async def _in_time(self, call: Coroutine[Any, Any, T]) -> T:
        """Awaits `call` until the deadline. A driver that is stuck in its own clean-up is left to it."""
        task = asyncio.create_task(call)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._deadline_s)
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if done:
            return task.result()
        self._abandon(task)
        raise StoreError(f"{self._target.name}: no answer within {self._deadline_s:g} s")

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        self._leftovers.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._leftovers.discard(task)
        if not task.cancelled():
            task.exception()  # its caller has had a StoreError already

    async def _attempt(self, transaction: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._ensure_schema()
                return await transaction()
            except self._errors as exc:
                if attempt == _ATTEMPTS or not is_transient(exc):
                    raise StoreError(f"{self._target.name}: {_first_line(exc)}") from exc
        raise AssertionError("unreachable")

    async def _ensure_schema(self) -> None:
        if self._is_current:
            return
        if self._migration is None or self._migration.done():
            self._migration = asyncio.create_task(self._migrate())
            self._migration.add_done_callback(self._forget)
        # Others wait for the same migration, and it may take longer than this caller's patience.
        await asyncio.shield(self._migration)

    async def _migrate(self) -> None:
        async with self._engine.connect() as connection:
            current = await is_current(connection)
        if not current:
            await migrate(self._target)
        self._is_current = True

    def _insert_new(self, table: Any, row: dict[str, Any], no_op_column: str) -> Insert:
        """An insert that does nothing where the key is there already; each dialect has its own words for it."""
        match self._target.url.get_backend_name():
            case "mysql":
                # Not INSERT IGNORE: that also ignores text that does not fit.
                same = table.c[no_op_column]
                return mysql.insert(table).values(row).on_duplicate_key_update({no_op_column: same})
            case "postgresql":
                return postgresql.insert(table).values(row).on_conflict_do_nothing()
            case _:
                return sqlite.insert(table).values(row).on_conflict_do_nothing()


def _is(table: Table, session_id: str) -> ColumnElement[bool]:
    """The row of this very id: to MySQL "a" and "a " are the same, and only the first is in the store."""
    return table.c.session_id == session_id if is_id(session_id) else false()


def _at_least(seconds: float) -> ColumnElement[float]:
    known = sessions.c.audio_seconds
    return case((known < seconds, literal(seconds)), else_=known)


async def _update_session(connection: AsyncConnection, session_id: str, **values: Any) -> None:
    statement = update(sessions).where(_is(sessions, session_id))
    result = await connection.execute(statement.values(updated_at=server_now(), **values))
    if result.rowcount == 0:
        raise UnknownSessionError(f"session {session_id} is not in the transcript store")


def _summaries() -> Any:
    count = select(func.count()).where(finals.c.session_id == sessions.c.session_id).scalar_subquery()
    return select(sessions, count.label("finals"))


def _final(row: Row[Any]) -> Final:
    return Final(
        seq=row.seq,
        text=row.text,
        start=row.start_s,
        end=row.end_s,
        language=row.language,
        confidence=row.confidence,
        punctuated=row.punctuated,
    )


def _summary(row: Row[Any]) -> SessionSummary:
    return SessionSummary(
        session_id=row.session_id,
        label=row.label,
        language=row.language,
        created_at=row.created_at,
        updated_at=row.updated_at,
        finals=row.finals,
        audio_seconds=row.audio_seconds,
        ended=row.ended,
    )


def _first_line(exc: BaseException) -> str:
    cause = getattr(exc, "orig", None) or exc
    return (str(cause) or type(cause).__name__).splitlines()[0]
