"""The date is set while people speak, on the host of a gateway or of its store: nobody notices, nothing is deleted."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.proxy import FaultyProxy
from tests.end_to_end.streams import PATIENT, Said, Transcript, speech, stored, transcribe
from tests.servers.redis import RedisServer
from tests.servers.wall_clock import WallClock

pytestmark = pytest.mark.triton

DAY = 86400
RESUME_WINDOW_S = 8


def words() -> bytes:
    return speech("jfk", "librivox_sense_0880")


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(gateway: GatewayProcess) -> list[Said]:
    heard = asyncio.run(transcribe(gateway.url, words(), PATIENT, punctuate=False))
    assert len(heard.finals) >= 2
    return heard.said


async def test_the_clock_of_a_gateway_is_set_while_somebody_speaks(
    make_gateway: MakeGateway, clock: WallClock, undisturbed: list[Said]
) -> None:
    first = make_gateway(folder="first", environment=clock.environment)
    shared = {"state_dir": str(first.folder / "state")}
    heard, is_over = Transcript(), asyncio.Event()
    async with FaultyProxy(first.port) as proxy:
        speaker = asyncio.create_task(
            transcribe(proxy.url, words(), PATIENT, speed=0.5, hurry=is_over, into=heard, punctuate=False)
        )
        await heard.until(lambda heard: bool(heard.finals))
        for breaks, days in enumerate((40, -40), start=1):
            clock.jump_to(days * DAY)
            proxy.reset_all()
            await resumes(heard, breaks)
        clock.jump_to(40 * DAY)
        # It deletes what is old as soon as it starts, and by its clock everything is.
        tidy = make_gateway(folder="tidy", environment=clock.environment, retention_days=1, **shared)
        assert await stored(first, heard.session_id)
        # The last one has the true time.
        last = make_gateway(folder="last", **shared)
        proxy.target = last.port
        first.kill()
        await resumes(heard, 3)
        tidy.terminate()
        is_over.set()
        assert (await speaker).said == undisturbed
    assert not heard.errors
    assert await stored(first, heard.session_id) == undisturbed


async def resumes(heard: Transcript, times: int) -> None:
    await heard.until(lambda heard: heard.resumed == times)


@pytest.fixture
def redis(clock: WallClock) -> Iterator[RedisServer]:
    with RedisServer(environment=clock.environment) as server:
        yield server


@pytest.mark.redis
async def test_the_clock_of_redis_is_set_while_somebody_speaks(
    make_gateway: MakeGateway, clock: WallClock, redis: RedisServer, undisturbed: list[Said]
) -> None:
    """By Redis's clock every session has expired, and another gateway closes out those that have."""
    shared = {"session_store": redis.url, "resume_window_s": RESUME_WINDOW_S}
    first = make_gateway(folder="first", **shared)
    make_gateway(folder="second", state_dir=str(first.folder / "state"), **shared)
    heard = Transcript()
    async with FaultyProxy(first.port) as proxy:
        speaker = asyncio.create_task(transcribe(proxy.url, words(), PATIENT, speed=1.0, into=heard, punctuate=False))
        await heard.until_words()
        for breaks, days in enumerate((1, 3, -3), start=1):
            clock.jump_to(days * DAY)
            proxy.reset_all()
            await resumes(heard, breaks)
        first.send_signal(signal.SIGSTOP)
        clock.jump_to(-3 * DAY + 3600)  # not so far that the store forgets it altogether
        await asyncio.sleep(RESUME_WINDOW_S / 2)  # in which the other one looks for what has expired
        first.send_signal(signal.SIGCONT)
        assert (await speaker).said == undisturbed
    assert not heard.errors
    assert heard.resumed == 3
