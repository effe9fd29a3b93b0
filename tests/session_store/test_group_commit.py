"""Which writes share a transaction of SQLite, and which a statement."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from session_store.base import StoreError, UnknownSessionError
from session_store.group_commit import GroupCommit


async def test_what_waits_behind_each_other_is_done_together_and_in_its_order(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'file'}")
    group = GroupCommit(engine)
    begun, go = asyncio.Event(), asyncio.Event()
    done: list[object] = []

    async def first(connection: AsyncConnection) -> None:
        await connection.execute(text("CREATE TABLE done (number INTEGER)"))
        begun.set()
        await go.wait()

    async def double(connection: AsyncConnection, numbers: Sequence[int]) -> Sequence[int | StoreError]:
        done.append(list(numbers))
        known = [{"number": number} for number in numbers if number]
        await connection.execute(text("INSERT INTO done VALUES (:number)"), known)
        return [2 * number if number else UnknownSessionError("nought") for number in numbers]

    async def count(connection: AsyncConnection) -> int:
        done.append("count")
        return int((await connection.execute(text("SELECT count(*) FROM done"))).scalar_one())

    async with asyncio.timeout(30):
        calls: list[asyncio.Task[Any]] = [asyncio.create_task(group.run(first))]
        await begun.wait()
        calls += [asyncio.create_task(group.run_jointly(double, number)) for number in (1, 0, 2)]
        calls += [asyncio.create_task(group.run(count)), asyncio.create_task(group.run_jointly(double, 3))]
        await asyncio.sleep(0)
        go.set()
        outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)

    assert done == [[1, 0, 2], "count", [3]]
    assert isinstance(outcomes[2], UnknownSessionError)
    assert [outcomes[at] for at in (0, 1, 3, 4, 5)] == [None, 2, 4, 2, 6]
    await group.close(5)
    await engine.dispose()


async def test_an_error_is_that_of_all_who_shared_the_transaction(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'file'}")
    group = GroupCommit(engine)

    async def broken(connection: AsyncConnection, _: Sequence[int]) -> Sequence[None]:
        raise OSError("the disk is gone")

    calls = [group.run_jointly(broken, number) for number in range(3)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert list(map(type, outcomes)) == [OSError] * 3
    with pytest.raises(OSError, match="gone"):
        await group.run_jointly(broken, 4)
    await group.close(5)
    await engine.dispose()
