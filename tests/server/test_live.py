"""In which order a session's words reach the stores, so that whoever goes on from what is stored loses none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from server.live import LiveSession
from server.metrics import Metrics
from server.outbox import Outbox
from server.parts import Parts
from server.protocol.close import CloseCode, Closing
from server.session.commands import Command, Finish, Send, Store
from server.session.messages import Done, Finalized
from server.session.session import Session
from server.session.settings import VAD_WINDOW, Policy, SessionSettings
from session_store.base import Claimed, Final, SessionState, StoreError
from session_store.memory import MemorySessionStore, MemoryTranscriptStore

FINAL = Final(0, "Hello.", 0.0, 1.0, "en", 0.9, True)
TTL_S = 3600.0


class Sessions(MemorySessionStore):
    """Lets a write wait on its way when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = asyncio.Event()
        self.arrives = asyncio.Event()
        self.arrives.set()

    async def save(self, state: SessionState, *, fence: int, ttl_s: float) -> None:
        self.under_way.set()
        await self.arrives.wait()
        await super().save(state, fence=fence, ttl_s=ttl_s)


class Transcripts(MemoryTranscriptStore):
    """Is away until told otherwise, and tells when somebody has noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.refused = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Event()

    async def append(self, session_id: str, final: Final) -> None:
        if self.is_away:
            self.refused.set()
            raise StoreError("away")
        await super().append(session_id, final)

    async def finals(self, session_id: str, *, after: int = -1) -> Sequence[Final]:
        self.asked.set()
        await self.answers.wait()
        return await super().finals(session_id, after=after)


class Silence:
    """Inference that nobody asks for anything."""

    def forget(self, source: object) -> None:
        del source


@dataclass
class World:
    """A session that is at work, and its stores."""

    state: SessionState = field(
        default_factory=lambda: SessionState("s", bytes(32), settings=SessionSettings().to_json())
    )
    sessions: Sessions = field(default_factory=Sessions)
    ownership: asyncio.Lock = field(default_factory=asyncio.Lock)
    transcripts: Transcripts = field(default_factory=Transcripts)

    async def begin(self, vad: object = None) -> LiveSession:
        others: dict[str, Any] = {"vad": vad, "inference": Silence()}
        parts = Parts(sessions=self.sessions, transcripts=self.transcripts, metrics=Metrics(), ttl_s=TTL_S, **others)
        fence = await self.sessions.create(self.state, owner="a", ttl_s=TTL_S)
        live = LiveSession(Session(self.state, SessionSettings(), Policy()), "s", fence, parts, self.ownership)
        await live.keeper.register()
        return live

    def write(self, live: LiveSession) -> None:
        """Has the session store its first final."""
        live.do(lambda: [Store(1, replace(self.state, next_seq=1), FINAL)])

    async def next_seq(self) -> int:
        state = await self.sessions.peek("s")
        assert isinstance(state, SessionState)
        return state.next_seq


async def test_the_state_counts_on_a_final_only_when_that_is_stored() -> None:
    world = World()
    live = await world.begin()
    world.transcripts.is_away = True
    world.write(live)
    async with asyncio.timeout(10):
        await world.transcripts.refused.wait()
        assert await world.next_seq() == 0
        world.transcripts.is_away = False
        await live.owed_nothing()
    assert await world.transcripts.finals("s") == [FINAL]
    assert await world.next_seq() == 1
    live.over(None)


async def test_an_owner_that_was_replaced_writes_no_final() -> None:
    world = World()
    live = await world.begin()
    assert isinstance(await world.sessions.claim("s", owner="b", ttl_s=TTL_S), Claimed)
    world.write(live)
    async with asyncio.timeout(10):
        await live.wait_over()
    assert await world.transcripts.finals("s") == []
    assert await world.next_seq() == 0


async def test_whoever_waits_until_nothing_is_owed_hears_of_the_end_of_a_session_without_a_connection() -> None:
    world = World()
    live = await world.begin()
    live.do(lambda: [Send(Done(16000, 0, 1.0)), Finish(1.0)])
    async with asyncio.timeout(10):
        await live.owed_nothing()
    assert live.is_finished
    live.over(None)


@pytest.mark.parametrize("is_taken", [True, False], ids=["taken", "given up"])
async def test_a_write_that_a_resume_in_this_process_overtakes_is_repeated(is_taken: bool) -> None:
    world = World()
    live = await world.begin()
    world.sessions.arrives.clear()
    world.write(live)
    async with asyncio.timeout(10):
        await world.sessions.under_way.wait()
        async with world.ownership:
            claimed = await world.sessions.claim("s", owner="a", ttl_s=TTL_S)
            assert isinstance(claimed, Claimed)
            world.sessions.arrives.set()
            # The write is refused before the one who resumes has told the session.
            for _ in range(100):
                await asyncio.sleep(0)
            assert not live.is_over
            if is_taken:
                live.keeper.fence = claimed.fence
        if is_taken:
            await live.owed_nothing()
            assert await world.next_seq() == 1
        else:
            await live.wait_over()
    assert live.is_over is not is_taken
    live.over(None)


async def test_a_session_that_finishes_while_it_is_brought_up_to_date_says_so_behind_that() -> None:
    world = World()
    live = await world.begin()
    world.write(live)
    await live.owed_nothing()
    outbox = Outbox(8)
    outbox.hold()
    live.attach(outbox)
    world.transcripts.answers.clear()
    hello, done = Finalized("hello", 0), Done(16000, 1, 1.0)
    replay = asyncio.create_task(live.replay(outbox, [Send(hello)], -1))
    async with asyncio.timeout(10):
        await world.transcripts.asked.wait()
        live.do(lambda: [Send(done), Finish(1.0)])
        while not live.is_finished:
            await asyncio.sleep(0)
        world.transcripts.answers.set()
        await replay
        assert [(await outbox.get()).message for _ in range(3)] == [hello, FINAL, done]
        with pytest.raises(Closing) as closing:
            await outbox.get()
    assert closing.value.code is CloseCode.NORMAL
    live.over(None)


class Detector:
    """Voice activity that answers nobody, and knows what it was asked."""

    def __init__(self) -> None:
        self.windows: list[int] = []

    def submit(self, state: object, samples: NDArray[np.int16], answer: object) -> None:
        del state, answer
        self.windows.append(len(samples) // VAD_WINDOW)


async def test_short_frames_go_to_the_core_together_and_none_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    world, detector = World(), Detector()
    live = await world.begin(vad=detector)
    heard: list[tuple[int, float]] = []
    hear = live.session.audio

    def note(data: bytes, now: float) -> list[Command]:
        heard.append((len(data), now))
        return hear(data, now)

    monkeypatch.setattr(live.session, "audio", note)
    frame = bytes(640)

    before = live.now()
    live.audio(frame)
    between = live.now()
    assert not heard, "20 ms are less than a window"
    live.audio(frame)
    assert detector.windows == [1]
    live.audio(bytes(3200))
    live.audio(frame)
    assert live.session.received == (640 + 640 + 3200 + 640) // 2
    assert [size for size, _ in heard] == [1280, 3200, 640]
    assert before <= heard[0][1] <= between, "the two count as arrived with the first of them"
    live.over(None)
    live.audio(bytes(3200))
    assert len(heard) == 3
