"""Session state in one SQLite file, shared by the gateway processes of one machine. The default."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from session_store.base import (
    DEFAULT_DEADLINE_S,
    TOMBSTONE_S,
    Claimed,
    Expired,
    Final,
    SessionExistsError,
    SessionState,
    StaleOwnerError,
    StoreError,
    TooManySessionsError,
    UnknownSessionError,
)
from session_store.codec import check_hash, check_id, dump_state, load_state, utc_day
from session_store.host_clock import Epoch, HostClock
from session_store.sqlite_worker import SqliteWorker

_VERSION_1 = (
    # body is NULL once the session was ended or closed out: a tombstone, kept for a day.
    """CREATE TABLE session (
        id TEXT PRIMARY KEY,
        token_hash BLOB NOT NULL,
        key_id TEXT NOT NULL,
        body BLOB,
        fence INTEGER NOT NULL,
        owner TEXT NOT NULL,
        deadline REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX session_deadline ON session (deadline)",
    "CREATE TABLE clock (boot TEXT NOT NULL, uptime REAL NOT NULL, unix REAL NOT NULL, last REAL NOT NULL)",
)
_VERSION_2 = (
    "CREATE INDEX session_key ON session (key_id, deadline) WHERE key_id != '' AND body IS NOT NULL",
    "CREATE TABLE ticket (hash BLOB PRIMARY KEY, key_id TEXT NOT NULL, deadline REAL NOT NULL) WITHOUT ROWID",
    # One row for each key: of the last day on which it was used.
    "CREATE TABLE usage (key_id TEXT PRIMARY KEY, day INTEGER NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID",
)
_VERSION_3 = (
    # When it was first found expired.
    "ALTER TABLE session ADD COLUMN late_since REAL",
)
_MIGRATIONS = (_VERSION_1, _VERSION_2, _VERSION_3)
_SCHEMA_VERSION = len(_MIGRATIONS)
_NEW_SESSION = "INTO session (id, token_hash, key_id, body, fence, owner, deadline) VALUES (?, ?, ?, ?, ?, ?, ?)"


class SqliteSessionStore:
    """`SessionStore` in a file. Every call is one atomic, durable transaction; see `SqliteWorker`.

    Args:
        path: the database file.
        deadline_s: longest wait of a call, for the disk and for other processes' locks, before `StoreError`.
        clock: UNIX seconds, the same for all processes that share the file.
        max_pages: limit of the file in pages of 4 KiB, 0 for none.
    """

    def __init__(
        self,
        path: Path,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        clock: HostClock | None = None,
        max_pages: int = 0,
    ) -> None:
        self._path = path
        self._clock = clock or HostClock()
        self._worker = SqliteWorker(path, self._prepare, deadline_s=deadline_s, max_pages=max_pages)

    def __repr__(self) -> str:
        return f"SqliteSessionStore({str(self._path)!r})"

    async def create(self, state: SessionState, *, owner: str, ttl_s: float, key_limit: int | None = None) -> int:
        """See `SessionStore.create`."""
        body = dump_state(state)

        def run(db: sqlite3.Connection) -> int:
            now = self._clock.now()
            row = db.execute(
                "SELECT fence, owner, body IS NOT NULL AND deadline > ? FROM session WHERE id = ?",
                (now, state.session_id),
            ).fetchone()
            if row is not None and row[2]:
                if row[1] != owner:
                    raise SessionExistsError(f"session {state.session_id} exists")
                return int(row[0])
            if key_limit is not None:
                (others,) = db.execute(
                    "SELECT count(*) FROM session "
                    "WHERE key_id = ? AND key_id != '' AND body IS NOT NULL AND deadline > ?",
                    (state.key_id, now),
                ).fetchone()
                if others >= key_limit:
                    raise TooManySessionsError(f"key {state.key_id} has {key_limit} sessions")
            fence = 1 if row is None else row[0] + 1
            db.execute(
                f"INSERT OR REPLACE {_NEW_SESSION}",
                (state.session_id, state.token_hash, state.key_id, body, fence, owner, now + ttl_s),
            )
            return int(fence)

        return await self._worker.run(run)

    async def peek(self, session_id: str) -> SessionState | Expired | None:
        """See `SessionStore.peek`."""
        return await self._worker.run(lambda db: self._read(db, session_id))

    async def claim(self, session_id: str, *, owner: str, ttl_s: float) -> Claimed | Expired | None:
        """See `SessionStore.claim`."""

        def run(db: sqlite3.Connection) -> Claimed | Expired | None:
            state = self._read(db, session_id)
            if not isinstance(state, SessionState):
                return state
            (fence,) = db.execute(
                "UPDATE session SET fence = fence + 1, owner = ?, deadline = ?, late_since = NULL WHERE id = ? "
                "RETURNING fence",
                (owner, self._clock.now() + ttl_s, session_id),
            ).fetchone()
            return Claimed(state, fence)

        return await self._worker.run(run)

    async def save(self, state: SessionState, *, fence: int, ttl_s: float) -> None:
        """See `SessionStore.save`."""
        body = dump_state(state)

        def run(db: sqlite3.Connection) -> None:
            deadline = self._clock.now() + ttl_s
            values = (state.session_id, state.token_hash, state.key_id, body, fence, "", deadline)
            saved = db.execute(
                f"INSERT {_NEW_SESSION} ON CONFLICT (id) DO UPDATE SET "
                "token_hash = excluded.token_hash, key_id = excluded.key_id, body = excluded.body, "
                "fence = excluded.fence, deadline = excluded.deadline, late_since = NULL "
                "WHERE session.body IS NOT NULL AND session.fence <= excluded.fence",
                values,
            )
            if saved.rowcount == 0:
                raise _stale(state.session_id)

        await self._worker.run(run, is_one_write=True)

    async def touch(self, session_id: str, *, fence: int, ttl_s: float) -> None:
        """See `SessionStore.touch`."""

        def run(db: sqlite3.Connection) -> None:
            touched = db.execute(
                "UPDATE session SET deadline = ?, late_since = NULL WHERE id = ? AND body IS NOT NULL AND fence <= ?",
                (self._clock.now() + ttl_s, session_id, fence),
            )
            if touched.rowcount == 0 and not _may_write(db, session_id, fence):
                raise UnknownSessionError(f"session {session_id} is not in {self._path}")

        await self._worker.run(run, is_one_write=True)

    async def delete(self, session_id: str, *, fence: int) -> None:
        """See `SessionStore.delete`."""

        def run(db: sqlite3.Connection) -> None:
            ended = db.execute(
                "SELECT 1 FROM session WHERE id = ? AND body IS NULL AND fence <= ?", (session_id, fence)
            ).fetchone()
            if ended is None and _may_write(db, session_id, fence):
                now = self._clock.now()
                db.execute("UPDATE session SET body = NULL, deadline = ? WHERE id = ?", (now, session_id))

        await self._worker.run(run)

    async def expired(self, limit: int, *, grace_s: float = 0.0) -> Sequence[SessionState]:
        """See `SessionStore.expired`. Old tombstones go on the same occasion."""

        def run(db: sqlite3.Connection) -> list[SessionState]:
            now = self._clock.now()
            db.execute("DELETE FROM session WHERE body IS NULL AND deadline < ?", (now - TOMBSTONE_S,))
            is_due = "body IS NOT NULL AND deadline <= ?"
            db.execute(f"UPDATE session SET late_since = ? WHERE {is_due} AND late_since IS NULL", (now, now))
            rows = db.execute(
                f"SELECT id, token_hash, key_id, body FROM session WHERE {is_due} AND late_since <= ? "
                "ORDER BY late_since, deadline LIMIT ?",
                (now, now - grace_s, limit),
            ).fetchall()
            db.executemany(
                "UPDATE session SET body = NULL, fence = fence + 1 WHERE id = ?",
                [(row[0],) for row in rows],
            )
            return [load_state(*row) for row in rows]

        return await self._worker.run(run)

    async def issue_ticket(self, ticket_hash: bytes, key_id: str, *, ttl_s: float) -> None:
        """See `SessionStore.issue_ticket`."""
        check_hash(ticket_hash, "ticket_hash")
        check_id(key_id, "key_id")

        def run(db: sqlite3.Connection) -> None:
            now = self._clock.now()
            db.execute("DELETE FROM ticket WHERE deadline <= ?", (now,))
            db.execute("INSERT OR REPLACE INTO ticket VALUES (?, ?, ?)", (ticket_hash, key_id, now + ttl_s))

        await self._worker.run(run)

    async def redeem_ticket(self, ticket_hash: bytes) -> str | None:
        """See `SessionStore.redeem_ticket`."""

        def run(db: sqlite3.Connection) -> str | None:
            row = db.execute("DELETE FROM ticket WHERE hash = ? RETURNING key_id, deadline", (ticket_hash,)).fetchone()
            return row[0] if row is not None and row[1] > self._clock.now() else None

        return await self._worker.run(run)

    async def add_usage(self, key_id: str, seconds: float) -> float:
        """See `SessionStore.add_usage`."""
        check_id(key_id, "key_id")

        def run(db: sqlite3.Connection) -> float:
            (total,) = db.execute(
                "INSERT INTO usage VALUES (?, ?, ?) ON CONFLICT (key_id) DO UPDATE SET "
                "seconds = excluded.seconds + iif(day = excluded.day, seconds, 0), day = excluded.day "
                "RETURNING seconds",
                (key_id, utc_day(self._clock.now()), seconds),
            ).fetchone()
            return float(total)

        return await self._worker.run(run)

    async def publish_partial(self, session_id: str, text: str, seq: int) -> None:
        """Nothing: the live feed is Redis's."""

    async def publish_final(self, session_id: str, final: Final) -> None:
        """Nothing: the live feed is Redis's."""

    async def ping(self) -> None:
        """See `SessionStore.ping`: writes, so that a full disk shows."""
        await self._worker.run(lambda db: db.execute("UPDATE clock SET last = max(last, ?)", (self._clock.now(),)))

    async def close(self) -> None:
        """See `SessionStore.close`."""
        await self._worker.close()

    def _prepare(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} was written by a newer version (schema {version}, this one knows {_SCHEMA_VERSION}): "
                "upgrade, or use another file"
            )
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                db.execute(statement)
        if version < _SCHEMA_VERSION:
            db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        row = db.execute("SELECT boot, uptime, unix, last FROM clock").fetchone()
        last = 0.0 if row is None else row[3]
        epoch = self._clock.agree(None if row is None else Epoch(*row[:3]), last)
        if epoch is not None:
            db.execute("DELETE FROM clock")
            db.execute("INSERT INTO clock VALUES (?, ?, ?, ?)", (epoch.boot, epoch.uptime, epoch.unix, epoch.unix))

    def _read(self, db: sqlite3.Connection, session_id: str) -> SessionState | Expired | None:
        row = db.execute(
            "SELECT token_hash, key_id, CASE WHEN deadline > ? THEN body END FROM session WHERE id = ?",
            (self._clock.now(), session_id),
        ).fetchone()
        if row is None:
            return None
        if row[2] is None:
            return Expired(row[0], row[1])
        return load_state(session_id, *row)


def _may_write(db: sqlite3.Connection, session_id: str, fence: int) -> bool:
    """Whether the file knows the session; raises `StaleOwnerError` where it is another's."""
    row = db.execute("SELECT fence, body IS NULL FROM session WHERE id = ?", (session_id,)).fetchone()
    if row is not None and (row[1] or fence < row[0]):
        raise _stale(session_id)
    return row is not None


def _stale(session_id: str) -> StaleOwnerError:
    return StaleOwnerError(f"session {session_id} has a newer owner or is over")
