"""Shared commits for a database that lets one transaction write at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_store.base import StoreError

T = TypeVar("T")
A = TypeVar("A")
Work = Callable[[AsyncConnection], Awaitable[T]]
JointWork = Callable[[AsyncConnection, Sequence[A]], Awaitable[Sequence[T | StoreError]]]
"""Does for several callers at once what each wants done with its argument; gives each its result, or its refusal."""

_MAX_WAITING = 10_000
_MAX_BATCH = 128


@dataclass(slots=True)
class _Entry:
    work: JointWork[Any, Any]
    argument: Any
    future: asyncio.Future[Any]
    outcome: Any = None


class GroupCommit:
    """Runs all the works that wait in one transaction, so that a burst of finals costs one flush of the disk.

    Works run in the order in which they came. A work may refuse with a `StoreError` as long as it has not written yet:
    that is its caller's alone. Any other error undoes the whole batch, and each caller gets it.

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

        async def alone(connection: AsyncConnection, _: Sequence[None]) -> Sequence[T | StoreError]:
            try:
                return [await work(connection)]
            except StoreError as exc:
                return [exc]

        return await self.run_jointly(alone, None)

    async def run_jointly(self, work: JointWork[A, T], argument: A) -> T:
        """As `run`; those that wait behind each other with the same work are done in one call of it.

        Every statement takes several turns between the event loop and the driver's thread, and each of them takes
        milliseconds where the loop is busy: so the longer it takes, the more share it.

        Raises:
            StoreError: too many works wait already, or the refusal.
        """
        if len(self._waiting) >= _MAX_WAITING:
            raise StoreError(f"{_MAX_WAITING} writes are waiting already")
        entry = _Entry(work, argument, asyncio.get_running_loop().create_future())
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
                # The lock may have taken long to come.
                awaited = [entry for entry in batch if not entry.future.done()]
                for work, entries in groupby(awaited, key=lambda entry: entry.work):
                    joint = list(entries)
                    outcomes = await work(connection, [entry.argument for entry in joint])
                    for entry, outcome in zip(joint, outcomes, strict=True):
                        entry.outcome = outcome
        except Exception as exc:
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_exception(exc)
            return
        for entry in batch:
            if entry.future.done():
                continue
            if isinstance(entry.outcome, StoreError):
                entry.future.set_exception(entry.outcome)
            else:
                entry.future.set_result(entry.outcome)
