"""A client that does not read costs the others nothing: their clocks with it beside them, and with one that reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from perf.clocks import Clocks, percentile
from perf.speakers import Speaker, make_frames, speak_together
from perf.track import DEFAULT_MANIFEST, Track, load_clips, make_tracks
from tests.end_to_end.deaf import deaf
from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.streams import paced
from tests.soak.report import record, setting, tell

pytestmark = [pytest.mark.soak, pytest.mark.triton, pytest.mark.timeout(0)]

NAME = "a client that does not read"
ROUNDS = setting("ROUNDS", 6)
ROUND_S = setting("ROUND_SECONDS", 60)
STREAMS = setting("STREAMS", 2)
FRAME_S = 0.02
MOST = 1.5
"""Generous: a p95 of some hundred finals moves by a tenth from one run to the next without any cause."""


async def test_others_do_not_notice_a_client_that_does_not_read(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(
        max_controls_per_s=1e6,
        send_timeout_s=3600,
        max_outbox=100_000,
        max_final_delay_s=600,
        max_partial_delay_s=600,
        resume_window_s=5,
    )
    # One track more than is measured: that of the slow client, or of one that reads in its place. The load is the same.
    beside, *measured = make_tracks(load_clips(DEFAULT_MANIFEST, ["en"]), STREAMS + 1, ROUND_S)
    await _round(gateway, beside, measured, reads=True)  # to warm up
    heard = {True: Clocks(), False: Clocks()}
    for number in range(ROUNDS):
        # In turns, and each first as often as the other: what else the machine does hits both.
        for reads in (number % 2 == 0, number % 2 == 1):
            heard[reads].extend(await _round(gateway, beside, measured, reads=reads))
            tell(NAME, f"round {number + 1} of {ROUNDS}, with one that {'reads' if reads else 'does not read'}")
    results, moved = [], []
    for name in ("partial_lag", "end_to_final"):
        without, beside_it = (_p95(heard[reads], name) for reads in (True, False))
        moved.append(beside_it / without)
        count = len(getattr(heard[False], name))
        results.append(
            f"p95 of {count} {name.replace('_', ' ')}s {beside_it * 1000:.0f} ms, "
            f"without it {without * 1000:.0f} ms ({moved[-1] - 1:+.0%})"
        )
    run = f"{STREAMS} streams beside one that does not read, {ROUNDS} rounds of {ROUND_S} s each way, in turns"
    record(NAME, run, "; ".join(results))
    assert max(moved) < MOST


def _p95(clocks: Clocks, name: str) -> float:
    value = percentile(getattr(clocks, name), 95)
    assert value is not None
    return value


Companion = Callable[[], Coroutine[Any, Any, None]]
"""Says a track from its beginning to its end."""


@asynccontextmanager
async def _reading(gateway: GatewayProcess, track: Track) -> AsyncIterator[Companion]:
    speaker = Speaker(track, make_frames(track, FRAME_S), FRAME_S)
    assert await speaker.connect(gateway.url, None, "reads"), speaker.heard.trouble

    async def say() -> None:
        await speak_together([speaker], ROUND_S)
        await speaker.finished()

    yield say


@asynccontextmanager
async def _not_reading(gateway: GatewayProcess, track: Track) -> AsyncIterator[Companion]:
    client = await deaf(gateway)

    async def say() -> None:
        async for frame in paced(track.samples.tobytes(), 1.0):
            await client.send(frame)

    try:
        yield say
    finally:
        client.transport.abort()
        await client.wait_closed()


async def _round(gateway: GatewayProcess, beside: Track, measured: list[Track], *, reads: bool) -> Clocks:
    """The clocks of the measured streams while somebody else says as much and reads what comes, or does not."""
    speakers = [Speaker(track, make_frames(track, FRAME_S), FRAME_S) for track in measured]
    async with _reading(gateway, beside) if reads else _not_reading(gateway, beside) as companion:
        for number, speaker in enumerate(speakers):
            assert await speaker.connect(gateway.url, None, f"stream {number}"), speaker.heard.trouble
        saying = asyncio.create_task(companion())
        await speak_together(speakers, ROUND_S)
        told = await asyncio.gather(*(speaker.finished() for speaker in speakers))
        await saying
    await asyncio.to_thread(gateway.wait_metric, "starling_sessions", 0)
    clocks = Clocks()
    for one in told:
        assert not one.trouble
        clocks.extend(one.clocks())
    return clocks
