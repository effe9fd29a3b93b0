"""Whole sessions of real speech through the client library, to be compared with an undisturbed one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import starling_client
from session_store.factory import open_transcript_store, sqlite_url
from starling_client import ErrorEvent, Event, Final, Partial, Reconnected, ResumePolicy, SessionStarted
from tests.end_to_end.gateway import GatewayProcess
from tests.end_to_end.speaker import clip, frames

DEADLINE_S = 180.0
FAST = 8.0
QUICK = ResumePolicy(backoff_base_s=0.05, backoff_cap_s=0.5, reconnect_timeout_s=60, dead_after_s=4, ping_interval_s=1)
PATIENT = ResumePolicy(backoff_base_s=0.05, backoff_cap_s=0.5, reconnect_timeout_s=90, dead_after_s=30)
"""Never takes a server that is only slow for a dead one."""

Said = tuple[int, str, float, float]
"""What must be the same whatever happened: seq, text, start and end of a final."""


def speech(*names: str) -> bytes:
    """Half a minute with pauses, or the recordings named, and the silence that ends the last segment."""
    pieces = [clip(name).samples for name in names or ("jfk", "librivox_sense_0870", "librivox_sense_0880")]
    pause = np.zeros(12000, np.int16)
    return np.concatenate([part for piece in pieces for part in (piece, pause)]).tobytes()


async def paced(data: bytes, speed: float = FAST, hurry: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """Frames of 20 ms, so many times faster than real time: a break finds the server in the middle of its work.

    `hurry`: once it is set, there is nothing more to wait for.
    """
    loop = asyncio.get_running_loop()
    due = loop.time()
    for frame in frames(data, 640):
        await asyncio.sleep(max(0.0, due - loop.time()))
        due += 0.02 / (FAST if hurry is not None and hurry.is_set() else speed)
        yield frame


@dataclass(slots=True)
class Transcript:
    """What came of a session, in order."""

    events: list[Event] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    errors: list[ErrorEvent] = field(default_factory=list)
    partials: int = 0
    resumed: int = 0
    session_id: str = ""
    token: str = ""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def said(self) -> list[Said]:
        """The finals without what may differ."""
        return [(final.seq, final.text, final.start, final.end) for final in self.finals]

    def take(self, event: Event) -> None:
        """Notes one event."""
        match event:
            case SessionStarted():
                self.session_id, self.token = event.session_id, event.token
            case Final():
                self.finals.append(event)
            case ErrorEvent():
                self.errors.append(event)
            case Partial():
                self.partials += 1
            case Reconnected():
                self.resumed += 1
        if not isinstance(event, Partial):
            self.events.append(event)
        self._changed.set()

    async def until_words(self) -> None:
        """Waits for the first words: a slow machine may give a segment no partial before its final."""
        await self.until(lambda heard: heard.partials > 0 or bool(heard.finals))

    async def until(self, condition: Callable[[Transcript], bool], timeout_s: float = 60.0) -> None:
        """Waits until what has come makes `condition` true."""
        async with asyncio.timeout(timeout_s):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()


async def transcribe(
    url: str,
    data: bytes,
    policy: ResumePolicy = QUICK,
    *,
    speed: float = FAST,
    hurry: asyncio.Event | None = None,
    into: Transcript | None = None,
    deadline_s: float = DEADLINE_S,
    **options: Any,
) -> Transcript:
    """A whole session; `into` can be looked at while it goes on."""
    heard = into or Transcript()
    async with asyncio.timeout(deadline_s), starling_client.connect(url, policy=policy, **options) as session:
        async for event in session.stream(paced(data, speed, hurry)):
            heard.take(event)
    return heard


async def until_speech(gateway: GatewayProcess) -> None:
    """Waits until the gateway has sent more words: somebody is speaking."""

    def words() -> float:
        return sum(gateway.metric(f'starling_messages_sent_total{{type="{kind}"}}') for kind in ("partial", "final"))

    before = await asyncio.to_thread(words)
    async with asyncio.timeout(60):
        while await asyncio.to_thread(words) <= before:
            await asyncio.sleep(0.05)


async def stored(gateway: GatewayProcess, session_id: str) -> list[Said]:
    """What the transcript store has of a session."""
    url = str(gateway.setting("transcript_store", sqlite_url(gateway.folder / "state" / "transcripts.sqlite")))
    store = open_transcript_store(url)
    try:
        finals = await store.finals(session_id)
    finally:
        await store.close()
    return [(final.seq, final.text, final.start, final.end) for final in finals]
