"""One SQLite file behind one thread: the event loop never waits for a disk, and waiting calls share a commit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from session_store.base import StoreError

T = TypeVar("T")

_MAX_WAITING = 10_000
_MAX_BATCH = 256


@dataclass(slots=True)
class _Call:
    run: Callable[[sqlite3.Connection], Any]
    is_one_write: bool
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    expires: float
    outcome: Any = None
    error: Exception | None = None

    def is_awaited(self) -> bool:
        """Whether its caller has not given up; what nobody waits for must not happen after all."""
        return self.expires > time.monotonic() and not self.future.done()


class SqliteWorker:
    """Runs functions of a connection in its own thread, many to a transaction.

    Calls that arrive while a commit is on its way to the disk share the next one. So ``synchronous=FULL``, which
    makes a commit survive a loss of power and not only the death of the process, costs one flush a batch.

    The connection is opened on first use and anew after any error, so a store that was away comes back by itself.

    Args:
        path: the database file; it and its folder are made, for the user's eyes only.
        prepare: called with each new connection inside a transaction (schema).
        deadline_s: longest wait of a call, before `StoreError`.
        max_pages: limit of the file in pages of 4 KiB, 0 for none.
    """

    def __init__(
        self,
        path: Path,
        prepare: Callable[[sqlite3.Connection], None],
        *,
        deadline_s: float,
        max_pages: int = 0,
    ) -> None:
        self._path = path
        self._prepare = prepare
        self._deadline_s = deadline_s
        self._max_pages = max_pages
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None
        self._closed = False

    async def run(self, function: Callable[[sqlite3.Connection], T], *, is_one_write: bool = False) -> T:
        """Runs `function` in a write transaction; returns once that is on the disk.

        An exception of the function's own rolls back its part only and comes through. Where it writes with one
        statement, and fails before that or not at all (`is_one_write`), there is nothing to roll back, and two
        statements less to run: for each of them the thread lets go of the interpreter, and on a busy event loop it
        takes milliseconds to get it back.

        Raises:
            StoreError: the database refused, or did not answer before the deadline.
        """
        if self._closed:
            raise StoreError(f"{self._path}: the store is closed")
        if self._calls.qsize() >= _MAX_WAITING:
            raise StoreError(f"{self._path}: {_MAX_WAITING} calls are waiting already")
        if self._thread is None:
            # A daemon: a disk that hangs for ever must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name=f"sqlite {self._path.name}", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        call = _Call(function, is_one_write, loop.create_future(), loop, time.monotonic() + self._deadline_s)
        self._calls.put(call)
        try:
            async with asyncio.timeout(self._deadline_s):
                result: T = await call.future
                return result
        except TimeoutError:
            raise StoreError(f"{self._path}: no answer within {self._deadline_s:g} s") from None

    async def close(self) -> None:
        """Lets the waiting calls finish, then closes the file; gives up on a disk that hangs."""
        self._closed = True
        if self._thread is not None:
            self._calls.put(None)
            await asyncio.to_thread(self._thread.join, self._deadline_s)

    def _work(self) -> None:
        stop = False
        while not stop:
            batch: list[_Call] = []
            call = self._calls.get()
            while call is not None:
                batch.append(call)
                if len(batch) == _MAX_BATCH:
                    break
                try:
                    call = self._calls.get_nowait()
                except queue.Empty:
                    break
            stop = call is None
            self._run_batch([call for call in batch if call.is_awaited()])
        self._disconnect()

    def _run_batch(self, batch: list[_Call]) -> None:
        if not batch:
            return
        try:
            self._transact(batch)
        except Exception as exc:
            # The whole batch shared the transaction, so it shares its fate: the disk, the lock or the file failed.
            self._disconnect()
            error = exc if isinstance(exc, StoreError) else StoreError(f"{self._path}: {exc}")
            for call in batch:
                call.error = error
        by_loop: dict[asyncio.AbstractEventLoop, list[_Call]] = {}
        for call in batch:
            by_loop.setdefault(call.loop, []).append(call)
        for loop, calls in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_deliver, calls)

    def _transact(self, batch: list[_Call]) -> None:
        db = self._connect()
        db.execute("BEGIN IMMEDIATE")
        for call in batch:
            if not call.is_awaited():  # the lock may have taken long to come
                continue
            if not call.is_one_write:
                db.execute("SAVEPOINT one")
            try:
                call.outcome = call.run(db)
            except sqlite3.Error:
                raise
            except Exception as exc:
                call.error = exc
            if call.is_one_write:
                continue
            if call.error is not None:
                db.execute("ROLLBACK TO one")
            db.execute("RELEASE one")
        db.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        if self._db is not None and self._path.exists():
            return self._db
        self._disconnect()
        make_private_file(self._path)
        db = sqlite3.connect(self._path, timeout=self._deadline_s, isolation_level=None, check_same_thread=False)
        try:
            self._write_ahead(db)
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA secure_delete = ON")
            if self._max_pages:
                db.execute(f"PRAGMA max_page_count = {self._max_pages}")
            db.execute("BEGIN IMMEDIATE")
            self._prepare(db)
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        self._db = db
        return db

    def _write_ahead(self, db: sqlite3.Connection) -> None:
        """Puts the file into write-ahead mode, which SQLite refuses at once while another connection has it open.

        That is the first start of several gateways on one new file. SQLite's own wait for a lock does not cover this
        change (it would be a deadlock if both waited), so it is tried again until the deadline.
        """
        deadline = time.monotonic() + self._deadline_s
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.005)  # a lock of another process announces nothing

    def _disconnect(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()  # rolls back what is open
            self._db = None


def make_private_file(path: Path) -> None:
    """Makes the file and its folder where they are missing, readable by this user only.

    SQLite gives its ``-wal`` and ``-shm`` files the same rights as the database.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never opens a file that is there: on POSIX, to close it would free every lock that SQLite's connections in this
    # process hold on it, and another process that closes the database would then delete the log they still write.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _deliver(calls: list[_Call]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if call.error is not None:
            call.future.set_exception(call.error)
        else:
            call.future.set_result(call.outcome)
