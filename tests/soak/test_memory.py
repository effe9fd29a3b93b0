"""Streams that go on for long leave the gateway's memory as it was."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time

import psutil
import pytest

import starling_client
from tests.end_to_end.gateway import MakeGateway
from tests.end_to_end.streams import PATIENT, paced, speech, transcribe
from tests.soak.report import record, setting, tell

pytestmark = [pytest.mark.soak, pytest.mark.triton, pytest.mark.timeout(0)]

NAME = "memory of streams"
SECONDS = setting("SECONDS", 3600)
STREAMS = setting("STREAMS", 2)
SAMPLE_S = 5.0
TELL_S = 60.0
MIB = 1 << 20
GROWTH_MIB = 6.0
"""What the middle of the last fifth may lie above the middle of the second one: less than a leak of 30 bytes for each
frame of an hour of two streams."""


async def test_streams_leave_the_memory_flat(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(max_session_s=10 * SECONDS, max_final_delay_s=600, max_partial_delay_s=600)
    process = psutil.Process(gateway.pid)
    until = time.monotonic() + SECONDS
    finals = [0] * STREAMS
    sessions = 0

    async def stream(number: int) -> None:
        """One session that never ends, in real time."""
        async with starling_client.connect(gateway.url, policy=PATIENT) as session:

            async def feed() -> None:
                for data in itertools.repeat(speech()):
                    async for frame in paced(data, 1.0):
                        if time.monotonic() > until:
                            await session.end()
                            return
                        await session.send(frame)

            feeding = asyncio.create_task(feed())
            async for event in session:
                finals[number] += isinstance(event, starling_client.Final)
            await feeding

    async def come_and_go() -> None:
        """Short sessions, one after another."""
        nonlocal sessions
        while time.monotonic() < until:
            await transcribe(gateway.url, speech("librivox_sense_0880"), PATIENT, speed=1.0)
            sessions += 1

    sizes: list[float] = []

    async def watch() -> None:
        told = 0.0
        while (now := time.monotonic()) < until:
            sizes.append(process.memory_info().rss / MIB)
            if now - told >= TELL_S:
                told = now
                tell(NAME, f"{until - now:.0f} s left, {sizes[-1]:.1f} MiB, {sum(finals)} finals, {sessions} sessions")
            await asyncio.sleep(SAMPLE_S)

    await asyncio.gather(watch(), come_and_go(), *(stream(number) for number in range(STREAMS)))
    fifth = len(sizes) // 5
    early, late = statistics.median(sizes[fifth : 2 * fifth]), statistics.median(sizes[-fifth:])
    record(
        NAME,
        f"{STREAMS} streams and {sessions} short sessions, {SECONDS} s, {sum(finals)} finals",
        f"second fifth {early:.1f} MiB, last fifth {late:.1f} MiB, highest {max(sizes):.1f} MiB",
    )
    assert min(finals) >= SECONDS / 30
    assert late - early < GROWTH_MIB
