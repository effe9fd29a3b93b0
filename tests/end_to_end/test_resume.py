"""Connections that break and servers that die: the finals are those of an undisturbed run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import starling_client
from starling_client import Final, Reconnected, ResumePolicy
from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.proxy import FaultyProxy, random_cuts
from tests.end_to_end.speaker import clip, frames

pytestmark = pytest.mark.triton

QUICK = ResumePolicy(backoff_base_s=0.05, backoff_cap_s=0.5, reconnect_timeout_s=60, dead_after_s=4, ping_interval_s=1)


def speech() -> bytes:
    """Half a minute with pauses, and the silence that ends the last segment."""
    pieces = [clip(name).samples for name in ("jfk", "librivox_sense_0870", "librivox_sense_0880")]
    pause = np.zeros(12000, np.int16)
    return np.concatenate([part for piece in pieces for part in (piece, pause)]).tobytes()


async def paced(data: bytes, speed: float = 8.0) -> AsyncIterator[bytes]:
    """Frames of 20 ms, so many times faster than real time: a break finds the server in the middle of its work."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number, frame in enumerate(frames(data, 640)):
        await asyncio.sleep(max(0.0, started + number * 0.02 / speed - loop.time()))
        yield frame


async def transcribe(url: str, data: bytes, policy: ResumePolicy = QUICK, **options: Any) -> tuple[list[Final], int]:
    """The finals of a whole session, and how often it was resumed."""
    finals, resumed = [], 0
    async with asyncio.timeout(150), starling_client.connect(url, policy=policy, **options) as session:
        async for event in session.stream(paced(data)):
            if isinstance(event, Final):
                finals.append(event)
            resumed += isinstance(event, Reconnected)
    return finals, resumed


def said(finals: list[Final]) -> list[tuple[int, str, float, float]]:
    return [(final.seq, final.text, final.start, final.end) for final in finals]


@pytest.fixture(scope="module")
def undisturbed(gateway: GatewayProcess) -> list[tuple[int, str, float, float]]:
    finals, resumed = asyncio.run(transcribe(gateway.url, speech()))
    assert finals
    assert not resumed
    return said(finals)


@pytest.mark.parametrize("seed", [1, 2])
async def test_ten_random_cuts_change_nothing(
    gateway: GatewayProcess, undisturbed: list[tuple[int, str, float, float]], seed: int
) -> None:
    async with FaultyProxy(gateway.port) as proxy:
        proxy.fault = random_cuts(10, 150_000, seed)
        finals, resumed = await transcribe(proxy.url, speech())
    assert said(finals) == undisturbed
    assert resumed >= 5


async def test_a_gateway_killed_in_mid_word_and_started_again(
    make_gateway: MakeGateway, undisturbed: list[tuple[int, str, float, float]]
) -> None:
    gateway = make_gateway(folder="restarted")
    async with FaultyProxy(gateway.port) as proxy:
        transcribing = asyncio.create_task(transcribe(proxy.url, speech()))
        await _until_speech(gateway)
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start)
        finals, resumed = await transcribing
    assert said(finals) == undisturbed
    assert resumed >= 1


async def test_another_gateway_on_the_same_store_goes_on(
    make_gateway: MakeGateway, undisturbed: list[tuple[int, str, float, float]]
) -> None:
    first = make_gateway(folder="shared")
    second = make_gateway(folder="other", state_dir=str(first.folder / "state"))
    async with FaultyProxy(first.port) as proxy:
        transcribing = asyncio.create_task(transcribe(proxy.url, speech()))
        await _until_speech(first)
        proxy.target = second.port
        await asyncio.to_thread(first.kill)
        finals, resumed = await transcribing
    assert said(finals) == undisturbed
    assert resumed >= 1


async def test_a_gateway_that_is_told_to_stop_sends_its_clients_on(
    make_gateway: MakeGateway, undisturbed: list[tuple[int, str, float, float]]
) -> None:
    first = make_gateway(folder="leaving")
    second = make_gateway(folder="staying", state_dir=str(first.folder / "state"))
    async with FaultyProxy(first.port) as proxy:
        transcribing = asyncio.create_task(transcribe(proxy.url, speech()))
        await _until_speech(first)
        proxy.target = second.port
        assert await asyncio.to_thread(first.terminate) == 0
        finals, _ = await transcribing
    assert said(finals) == undisturbed


async def test_a_half_open_connection_is_noticed_and_replaced(
    gateway: GatewayProcess, undisturbed: list[tuple[int, str, float, float]]
) -> None:
    async with FaultyProxy(gateway.port) as proxy:
        transcribing = asyncio.create_task(transcribe(proxy.url, speech()))
        await _until_speech(gateway)
        proxy.stall()
        await asyncio.sleep(QUICK.dead_after_s + 2)  # what is tested is that time passes and nothing comes
        proxy.flow()
        finals, _ = await transcribing
    assert said(finals) == undisturbed


async def test_a_slow_and_shaky_line_changes_nothing(
    gateway: GatewayProcess, undisturbed: list[tuple[int, str, float, float]]
) -> None:
    chance = random.Random(3)
    async with FaultyProxy(gateway.port) as proxy:
        proxy.delay = lambda: chance.uniform(0.0, 0.05)
        finals, _ = await transcribe(proxy.url, speech())
    assert said(finals) == undisturbed


async def _until_speech(gateway: GatewayProcess) -> None:
    """Waits until the gateway has sent another partial: somebody is speaking."""
    name = 'starling_messages_sent_total{type="partial"}'
    before = await asyncio.to_thread(gateway.metric, name)
    async with asyncio.timeout(60):
        while await asyncio.to_thread(gateway.metric, name) <= before:
            await asyncio.sleep(0.05)
