"""Shared commits for a database that lets one transaction write at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_store.base import StoreError

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

_MAX_WAITING = 10_000
_MAX_BATCH = 128


@dataclass(slots=True)
class _Entry:
    work: Work[Any]
    future: asyncio.Future[Any]
    outcome: Any = None
    refusal: StoreError | None = None


class GroupCommit:
    """Runs all the works that wait in one transaction, so that a burst of finals costs one flush of the disk.

    A work may refuse with a `StoreError` as long as it has not written yet: that is its caller's alone. Any other
    error undoes the whole batch, and each caller gets it.

    Args:
        engine: of a SQLite file, whose transactions begin with the write lock.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: deque[_Entry] = deque()
        self._task: asyncio.Task[None] | None = None

    async def run(self, work: Work[T]) -> T:
        """Runs `work` and returns its result once that is on the disk.

        Raises:
            StoreError: too many works wait already, or the work's own.
        """
        if len(self._waiting) >= _MAX_WAITING:
            raise StoreError(f"{_MAX_WAITING} writes are waiting already")
        entry = _Entry(work, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name="group commit")
        result: T = await entry.future
        return result

    async def close(self, timeout_s: float) -> None:
        """Waits for the works at hand."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_s)
            self._task.cancel()

    async def _drain(self) -> None:
        while self._waiting:
            batch: list[_Entry] = []
            while self._waiting and len(batch) < _MAX_BATCH:
                entry = self._waiting.popleft()
                if not entry.future.done():  # its caller gave up
                    batch.append(entry)
            if batch:
                await self._commit(batch)

    async def _commit(self, batch: list[_Entry]) -> None:
        try:
            async with self._engine.begin() as connection:
                for entry in batch:
                    if entry.future.done():  # the lock may have taken long to come
                        continue
                    try:
                        entry.outcome = await entry.work(connection)
                    except StoreError as exc:
                        entry.refusal = exc
        except Exception as exc:
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_exception(exc)
            return
        for entry in batch:
            if entry.future.done():
                continue
            if entry.refusal is not None:
                entry.future.set_exception(entry.refusal)
            else:
                entry.future.set_result(entry.outcome)
