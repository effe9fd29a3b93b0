"""Connections that are opened and killed by the thousand leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.speaker import frames, recite
from tests.end_to_end.streams import speech
from tests.soak.report import record, setting, tell

pytestmark = [pytest.mark.soak, pytest.mark.triton, pytest.mark.timeout(3600)]

NAME = "connects and kills"
CONNECTS = setting("CONNECTS", 1000)
AT_ONCE = 16
COUNTS = ("starling_tasks", "process_open_fds", "starling_sessions", 'starling_connections{protocol="stream"}')


async def test_connects_and_kills_leave_nothing(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(resume_window_s=5, max_final_delay_s=600, max_partial_delay_s=600)
    data = speech("jfk")
    await recite(gateway.url, data)
    await asyncio.to_thread(gateway.wait_metric, "starling_sessions", 0)
    before = await asyncio.to_thread(_counts, gateway)
    chance, gate, started = random.Random(5), asyncio.Semaphore(AT_ONCE), time.monotonic()

    async def one(number: int, kind: int, amount: int) -> None:
        async with gate:
            await _connect_and_kill(gateway, data[:amount], kind)
        if number % 100 == 0:
            tell(NAME, f"{number} of {CONNECTS}")

    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTS):
            group.create_task(one(number, chance.randrange(5), chance.randrange(3200, 64000)))
    after = await asyncio.to_thread(_settled, gateway, before)
    left = ", ".join(f"{after[name] - before[name]:g} {name.partition('{')[0]}" for name in COUNTS)
    took = time.monotonic() - started
    record(NAME, f"{CONNECTS} connects in {took:.0f} s", f"left behind: {left}")
    assert after == before
    assert "Traceback" not in gateway.log
    assert '"exception"' not in gateway.log


async def _connect_and_kill(gateway: GatewayProcess, data: bytes, kind: int) -> None:
    """Ends at one of the places where a connection may: half a handshake, before the start, in speech, or in order."""
    if kind == 0:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: web")
        await writer.drain()
        writer.transport.abort()
        return
    with suppress(OSError, WebSocketException):
        async with connect(gateway.url, ping_interval=None) as socket:
            if kind > 1:
                await socket.send(json.dumps({"type": "start"}))
                for frame in frames(data, 6400):
                    await socket.send(frame)
            if kind == 3:
                await socket.recv()
            if kind < 4:
                socket.transport.abort()


def _counts(gateway: GatewayProcess) -> dict[str, float]:
    return {name: gateway.metric(name) for name in COUNTS}


def _settled(gateway: GatewayProcess, goal: dict[str, float]) -> dict[str, float]:
    """The counts once they are as they were, or after two minutes."""
    deadline = time.monotonic() + 120
    while (counts := _counts(gateway)) != goal and time.monotonic() < deadline:
        time.sleep(1)
    return counts
