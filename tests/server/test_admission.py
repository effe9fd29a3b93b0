from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from server.admission import RETRY_AFTER_S, SPARE_CONNECTIONS, Admission
from server.config import load
from server.connection import Connection
from server.quota import Identity

NOBODY = Identity()
LIMIT, RESERVE = 3, 2


@dataclass(eq=False)
class Open:
    """What of a connection counts here."""

    must_resume: bool = False
    is_begun: bool = True
    identity: Identity = NOBODY


@dataclass
class Sessions:
    """The registry: what is in the store, and how many of this process have lost their connection."""

    stored: set[str] = field(default_factory=set)
    adrift: int = 0
    is_draining: bool = False

    async def is_resumable(self, session_id: str, identity: Identity) -> bool:
        return session_id in self.stored and identity is NOBODY


@dataclass
class Models:
    final_delay: float = 0.0
    partial_delay: float = 0.0


class World:
    def __init__(self) -> None:
        self.sessions, self.models, self.open = Sessions({"s"}), Models(), set[Open]()
        settings = load(max_sessions=LIMIT, resume_reserve=RESERVE, max_final_delay_s=1)
        parts: tuple[Any, ...] = (settings, self.sessions, self.models, cast(set[Connection], self.open))
        self.admission = Admission(*parts)

    def connect(self, count: int, **connection: Any) -> None:
        self.open |= {Open(**connection) for _ in range(count)}

    async def takes(self, session_id: str | None, *, unnamed: bool = True, identity: Identity = NOBODY) -> bool:
        return await self.admission.is_return(session_id, identity, unnamed=unnamed)


@pytest.fixture
def world() -> World:
    return World()


def test_it_is_full_at_the_limit_when_words_are_late_and_while_it_drains(world: World) -> None:
    world.connect(LIMIT - 1)
    assert world.admission.why_full() is None
    world.models.final_delay = 1.1
    late = world.admission.why_full()
    assert late is not None
    assert (late.status, late.retry_after_s) == (503, RETRY_AFTER_S)
    world.models.final_delay = 0.9
    world.models.partial_delay = 2.6
    assert world.admission.why_full() == late
    world.models.partial_delay = 2.4
    assert world.admission.why_full() is None
    world.connect(1)
    full = world.admission.why_full()
    assert full is not None
    assert "3 sessions" in full.text
    world.open.clear()
    world.sessions.is_draining = True
    assert world.admission.why_full() is not None


async def test_the_reserve_is_for_sessions_in_the_store(world: World) -> None:
    world.connect(LIMIT + RESERVE - 1)
    assert await world.takes("s")
    assert await world.takes("s", unnamed=False)
    assert not await world.takes("unknown")
    assert not await world.takes(None)
    assert not await world.takes("s", identity=Identity("another key"))
    world.connect(1)
    assert not await world.takes("s")


async def test_the_reserve_is_there_too_while_finals_are_late(world: World) -> None:
    world.models.final_delay = 5
    assert await world.takes("s")
    assert not await world.takes(None)


async def test_sessions_that_are_adrift_here_come_back_without_being_named(world: World) -> None:
    world.connect(LIMIT + RESERVE)
    world.sessions.adrift = 2
    assert await world.takes(None)
    assert await world.takes("s"), "the reserve is used up, but it may be one of those"
    assert not await world.takes(None, unnamed=False)
    world.connect(1, must_resume=True, is_begun=False)
    assert await world.takes(None)
    world.connect(1, must_resume=True, is_begun=False)
    assert not await world.takes(None)
    world.connect(5, must_resume=True)
    assert not await world.takes(None), "whoever has resumed is not adrift any more"


async def test_nobody_comes_back_to_a_server_that_drains(world: World) -> None:
    world.sessions.is_draining = True
    world.sessions.adrift = 9
    assert not await world.takes("s")
    assert not await world.takes(None)


def test_a_key_has_two_connections_for_each_session_and_some_spare(world: World) -> None:
    key = Identity("key", max_sessions=2)
    world.connect(3 + SPARE_CONNECTIONS, identity=key)
    world.connect(50)
    assert world.admission.has_too_many(key) is None
    assert world.admission.has_too_many(NOBODY) is None
    world.connect(1, identity=key)
    refusal = world.admission.has_too_many(key)
    assert refusal is not None
    assert refusal.status == 503
