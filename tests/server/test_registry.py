"""What the registry knows of sessions, its own and those in the store, when a store forgets or its clock is set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from server.config import load
from server.metrics import Metrics
from server.outbox import Outbox
from server.parts import Parts
from server.protocol.close import CloseCode, Closing
from server.protocol.stream import Resume
from server.quota import Identity
from server.registry import Registry
from server.session.messages import Opened
from server.session.settings import SessionSettings
from session_store.base import Expired, Final, SessionState, StoreError
from session_store.memory import MemorySessionStore, MemoryTranscriptStore

NOBODY, KEY = Identity(), Identity("key-1")
TTL_S = 60.0


class Store(MemorySessionStore):
    """Its clock is the test's, and it is away when told so."""

    def __init__(self) -> None:
        self.time = 0.0
        super().__init__(clock=lambda: self.time)
        self.is_away = False

    async def peek(self, session_id: str) -> SessionState | Expired | None:
        if self.is_away:
            raise StoreError("away")
        return await super().peek(session_id)


class Transcripts(MemoryTranscriptStore):
    """Answers what it is asked for finals when it is let, and fails at it when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.asked = asyncio.Queue[asyncio.Event]()
        self.waits = False

    async def finals(self, session_id: str, *, after: int = -1) -> Sequence[Final]:
        if self.waits:
            answer = asyncio.Event()
            self.asked.put_nowait(answer)
            await answer.wait()
        if self.is_away:
            raise StoreError("away")
        return await super().finals(session_id, after=after)


class Silence:
    """Inference that nobody asks for anything."""

    def forget(self, source: object) -> None:
        del source


class World:
    """Two gateways with the same stores."""

    def __init__(self) -> None:
        self.store = Store()
        self.transcripts = Transcripts()
        shared: dict[str, Any] = {"vad": None, "inference": Silence(), "transcripts": self.transcripts}
        parts = [Parts(sessions=self.store, metrics=Metrics(), ttl_s=TTL_S, **shared) for _ in range(2)]
        self.here, self.there = (Registry(each, load()) for each in parts)

    async def begin(self, identity: Identity = NOBODY) -> Opened:
        """A session of the first gateway; what its client is told."""
        outbox = Outbox(8)
        await self.here.begin(SessionSettings(), identity, outbox)
        async with asyncio.timeout(10):
            return cast(Opened, (await outbox.get()).message)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.here.close()
    await made.there.close()


async def test_a_session_can_be_resumed_anywhere_by_its_own_key(world: World) -> None:
    session_id = (await world.begin(KEY)).session_id
    for registry in (world.here, world.there):
        assert await registry.is_resumable(session_id, KEY)
        assert not await registry.is_resumable(session_id, Identity("key-2"))
        assert not await registry.is_resumable(session_id, NOBODY)
        assert not await registry.is_resumable("unknown", KEY)
    world.store.is_away = True
    assert not await world.there.is_resumable(session_id, KEY)
    world.store.is_away = False
    world.store.time = 2 * TTL_S
    assert not await world.there.is_resumable(session_id, KEY)


async def test_retention_spares_sessions_of_this_gateway_and_of_others(world: World) -> None:
    session_id = (await world.begin()).session_id
    asked = [session_id, "over"]
    assert await world.here.alive(asked) == await world.there.alive(asked) == {session_id}
    # By the store's clock it has expired: whoever holds it knows better.
    world.store.time = 2 * TTL_S
    assert await world.here.alive(asked) == {session_id}
    assert await world.there.alive(asked) == set()
    world.store.is_away = True
    with pytest.raises(StoreError):
        await world.there.alive(asked)


async def test_a_session_that_expired_by_the_stores_clock_is_resumed_where_it_is_alive(world: World) -> None:
    opened = await world.begin()
    request = Resume(opened.token, -1, 0)
    world.store.time = 2 * TTL_S
    with pytest.raises(Closing) as elsewhere:
        await world.there.resume(request, NOBODY, Outbox(8))
    assert elsewhere.value.code is CloseCode.WINDOW_PASSED
    with pytest.raises(Closing) as stranger:
        await world.here.resume(Resume(f"{opened.session_id}.guessed", -1, 0), NOBODY, Outbox(8))
    assert stranger.value.code is CloseCode.NO_SESSION
    assert isinstance(await world.store.peek(opened.session_id), Expired), "a stranger renews nothing"
    live = await world.here.resume(request, NOBODY, Outbox(8))
    assert live.session_id == opened.session_id
    assert isinstance(await world.store.peek(opened.session_id), SessionState)


async def test_a_session_that_another_gateway_finds_late_is_left_to_its_owner_at_first(world: World) -> None:
    session_id = (await world.begin()).session_id
    world.store.time = 2 * TTL_S
    await world.there.upkeep.close_out()
    (live,) = world.here.sessions
    await live.touch()
    assert not live.is_over
    assert isinstance(await world.store.peek(session_id), SessionState)
    # Its owner is gone for good.
    world.store.time = 4 * TTL_S
    for _ in range(2):
        await world.there.upkeep.close_out()
        world.store.time += TTL_S
    await live.touch()
    assert live.is_over


async def test_two_resumes_at_once_leave_the_session_to_the_second(world: World) -> None:
    opened = await world.begin()
    request = Resume(opened.token, -1, 0)
    for registry in (world.here, world.there):
        world.transcripts.waits = True
        outboxes = [Outbox(8), Outbox(8)]
        resumes = [asyncio.create_task(registry.resume(request, NOBODY, outbox)) for outbox in outboxes]
        async with asyncio.timeout(10):
            first = await world.transcripts.asked.get()
            # Time for the second one to get past the first, if it could.
            for _ in range(100):
                await asyncio.sleep(0)
            world.transcripts.waits = False
            while not world.transcripts.asked.empty():
                world.transcripts.asked.get_nowait().set()
            first.set()
            lives = await asyncio.gather(*resumes)
        assert lives[0] is lives[1]
        assert lives[1].outbox is outboxes[1]
        await lives[1].touch()
        assert not lives[1].is_over, "it owns the session in the store too"


async def test_a_resume_that_comes_to_nothing_leaves_the_session_to_its_connection(world: World) -> None:
    opened = await world.begin()
    (live,) = world.here.sessions
    world.transcripts.is_away = True
    with pytest.raises(Closing) as closing:
        await world.here.resume(Resume(opened.token, -1, 0), NOBODY, Outbox(8))
    assert closing.value.code is CloseCode.OVERLOADED
    await live.touch()
    assert not live.is_over
    assert live.outbox is not None
