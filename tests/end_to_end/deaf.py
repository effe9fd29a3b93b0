"""A client that does not read."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time

from websockets.asyncio.client import ClientConnection, connect

from tests.end_to_end.gateway import GatewayProcess

ERRORS = 'starling_messages_sent_total{type="error"}'
BAD_LANGUAGE = json.dumps({"language": "xx"})


async def deaf(gateway: GatewayProcess) -> ClientConnection:
    """A connection whose client reads nothing, and whose buffers between server and client are full.

    The gateway must allow any number of control messages.
    """
    line = socket.socket()
    # It takes in as little as it may.
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", gateway.port))
    client = await connect(gateway.url, sock=line, ping_interval=None, max_queue=1)
    await client.send(json.dumps({"type": "start", "punctuate": False}))
    before = await asyncio.to_thread(gateway.metric, ERRORS)
    sent = 0
    while True:
        for _ in range(60):
            await client.send(BAD_LANGUAGE)
        sent += 60
        if await asyncio.to_thread(standing, gateway, ERRORS, before + sent) < before + sent:
            return client


def standing(gateway: GatewayProcess, name: str, enough: float = math.inf) -> float:
    """The value of a metric that has not moved for three seconds, or is enough."""
    value, since = -1.0, time.monotonic()
    while time.monotonic() < since + 3:
        now = gateway.metric(name)
        if now != value:
            value, since = now, time.monotonic()
        if value >= enough:
            break
        time.sleep(0.02)
    return value
