"""Connections that break and servers that die: the finals are those of an undisturbed run."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.proxy import FaultyProxy, random_cuts
from tests.end_to_end.streams import QUICK, Said, speech, transcribe, until_speech

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def undisturbed(gateway: GatewayProcess) -> list[Said]:
    heard = asyncio.run(transcribe(gateway.url, speech()))
    assert heard.finals
    assert not heard.resumed
    return heard.said


@pytest.mark.parametrize("seed", [1, 2])
async def test_ten_random_cuts_change_nothing(gateway: GatewayProcess, undisturbed: list[Said], seed: int) -> None:
    async with FaultyProxy(gateway.port) as proxy:
        proxy.fault = random_cuts(10, 150_000, seed)
        heard = await transcribe(proxy.url, speech())
    assert heard.said == undisturbed
    assert heard.resumed >= 5


async def test_a_gateway_killed_in_mid_word_and_started_again(
    make_gateway: MakeGateway, undisturbed: list[Said]
) -> None:
    gateway = make_gateway(folder="restarted")
    async with FaultyProxy(gateway.port) as proxy:
        transcribing = asyncio.create_task(transcribe(proxy.url, speech()))
        await until_speech(gateway)
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start)
        heard = await transcribing
    assert heard.said == undisturbed
    assert heard.resumed >= 1


async def test_another_gateway_on_the_same_store_goes_on(make_gateway: MakeGateway, undisturbed: list[Said]) -> None:
    first = make_gateway(folder="shared")
    second = make_gateway(folder="other", state_dir=str(first.folder / "state"))
    async with FaultyProxy(first.port) as proxy:
        transcribing = asyncio.create_task(transcribe(proxy.url, speech()))
        await until_speech(first)
        proxy.target = second.port
        await asyncio.to_thread(first.kill)
        heard = await transcribing
    assert heard.said == undisturbed
    assert heard.resumed >= 1


async def test_a_gateway_that_is_told_to_stop_sends_its_clients_on(
    make_gateway: MakeGateway, undisturbed: list[Said]
) -> None:
    first = make_gateway(folder="leaving")
    second = make_gateway(folder="staying", state_dir=str(first.folder / "state"))
    async with FaultyProxy(first.port) as proxy:
        transcribing = asyncio.create_task(transcribe(proxy.url, speech()))
        await until_speech(first)
        proxy.target = second.port
        assert await asyncio.to_thread(first.terminate) == 0
        heard = await transcribing
    assert heard.said == undisturbed


async def test_a_half_open_connection_is_noticed_and_replaced(gateway: GatewayProcess, undisturbed: list[Said]) -> None:
    async with FaultyProxy(gateway.port) as proxy:
        transcribing = asyncio.create_task(transcribe(proxy.url, speech()))
        await until_speech(gateway)
        proxy.stall()
        await asyncio.sleep(QUICK.dead_after_s + 2)  # what is tested is that time passes and nothing comes
        proxy.flow()
        heard = await transcribing
    assert heard.said == undisturbed


async def test_a_slow_and_shaky_line_changes_nothing(gateway: GatewayProcess, undisturbed: list[Said]) -> None:
    chance = random.Random(3)
    async with FaultyProxy(gateway.port) as proxy:
        proxy.delay = lambda: chance.uniform(0.0, 0.05)
        heard = await transcribe(proxy.url, speech())
    assert heard.said == undisturbed
