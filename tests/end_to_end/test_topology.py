"""The topology of `compose.yaml` as plain processes: balancer, two gateways, Redis, MariaDB and the real Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import starling_client
from launcher.triton import TritonProcess
from session_store.factory import open_transcript_store
from starling_client import ResumePolicy
from tests.end_to_end.gateway import GatewayProcess
from tests.end_to_end.speaker import clip
from tests.end_to_end.streams import FAST, Transcript, speech, transcribe
from tests.servers.haproxy import HaproxyServer
from tests.servers.mariadb import MariadbServer
from tests.servers.redis import RedisServer

pytestmark = [pytest.mark.triton, pytest.mark.redis, pytest.mark.mariadb, pytest.mark.haproxy]

POLICY = ResumePolicy(backoff_base_s=0.05, backoff_cap_s=0.5, reconnect_timeout_s=60)
SPEAKERS = 3
SLOW = 0.5
"""Speed of what is said while gateways go and come, of real time: what is said must outlast them."""


class Topology:
    """Everything that runs."""

    def __init__(self, balancer: HaproxyServer, gateways: list[GatewayProcess], transcripts: str) -> None:
        self.balancer = balancer
        self.gateways = gateways
        self.transcripts = transcripts

    async def restart_one_by_one(self) -> None:
        """A rolling restart: each gateway drains, comes back, and gets clients before the next one goes."""
        for gateway in self.gateways:
            assert await asyncio.to_thread(gateway.terminate) == 0
            await asyncio.to_thread(gateway.start)
            await self.until_all_up()

    async def until_all_up(self) -> None:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(self.balancer.is_ready):
                await asyncio.sleep(0.1)  # another process's view is no event that could be awaited


@pytest.fixture(scope="module")
def topology(
    triton: TritonProcess,
    redis_server: RedisServer,
    mariadb_server: MariadbServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Topology]:
    """Two gateways that share nothing but the stores and Triton."""
    with ExitStack() as stack:
        gateways = []
        for number in (1, 2):
            folder = tmp_path_factory.mktemp(f"gateway-{number}")
            gateway = GatewayProcess(
                folder, [triton.options.grpc_url], **_settings(folder, redis_server, mariadb_server)
            )
            stack.callback(gateway.close)
            gateways.append(gateway.start())
        first, second = (f"127.0.0.1:{gateway.port}" for gateway in gateways)
        balancer = stack.enter_context(HaproxyServer(first, second))
        yield Topology(balancer, gateways, mariadb_server.url)


def _settings(folder: Path, redis: RedisServer, mariadb: MariadbServer) -> dict[str, str]:
    """The stores' URLs come from files, as in the containers."""
    secrets = folder / "secrets"
    secrets.mkdir()
    (secrets / "starling_session_store").write_text(redis.url)
    (secrets / "starling_transcript_store").write_text(mariadb.url)
    return {"secrets_dir": str(secrets), "drain_s": "8", "max_in_flight": "4"}


def transcribing(url: str, hurry: asyncio.Event | None, heard: Transcript) -> Coroutine[Any, Any, Transcript]:
    """A session of half a minute, slow until `hurry` is set."""
    speed = FAST if hurry is None else SLOW
    return transcribe(url, speech(), POLICY, speed=speed, hurry=hurry, into=heard, session_label="topology")


async def test_a_rolling_restart_of_both_gateways_loses_no_word(topology: Topology) -> None:
    balancer = topology.balancer
    undisturbed = await transcribing(balancer.url, None, Transcript())
    assert undisturbed.said
    assert not undisturbed.resumed
    first = " ".join(final.text for final in undisturbed.finals if final.end < 11.5)
    assert clip("jfk").word_error_rate(first) < 0.3

    is_over, heard = asyncio.Event(), [Transcript() for _ in range(SPEAKERS)]
    async with asyncio.TaskGroup() as speakers:
        for session in heard:
            speakers.create_task(transcribing(balancer.url, is_over, session))
        await asyncio.gather(*(session.until_words() for session in heard))
        await topology.restart_one_by_one()
        is_over.set()

    assert [session.said for session in heard] == [undisturbed.said] * SPEAKERS
    # Each gateway went away under somebody, and every client came back.
    assert sum(session.resumed for session in heard) >= SPEAKERS
    transcripts = open_transcript_store(topology.transcripts)
    try:
        for session in heard:
            kept = await transcripts.finals(session.session_id)
            assert [(final.seq, final.text, final.start, final.end) for final in kept] == session.said
    finally:
        await transcripts.close()


async def test_connections_are_spread_and_the_inside_stays_inside(topology: Topology) -> None:
    await topology.until_all_up()
    balancer = topology.balancer
    before = balancer.sessions()
    async with (
        starling_client.connect(balancer.url, policy=POLICY) as first,
        starling_client.connect(balancer.url, policy=POLICY) as second,
    ):
        await asyncio.gather(first.send(bytes(640)), second.send(bytes(640)))
        open_now = [gateway.metric('starling_connections{protocol="stream"}') for gateway in topology.gateways]
        assert open_now == [1, 1]
    after = balancer.sessions()
    assert all(after[name] > before[name] for name in ("gateway-1", "gateway-2"))
    for path in ("/metrics", "/healthz"):
        assert balancer.get(balancer.port, path)[0] == 404
    assert balancer.get(balancer.port, "/")[0] == 200


async def test_without_any_gateway_clients_are_told_to_try_again() -> None:
    with HaproxyServer("127.0.0.1:1", "127.0.0.1:1", up=frozenset()) as balancer:
        status, body = await asyncio.to_thread(balancer.get, balancer.port, "/stream")
    assert (status, body) == (503, "no gateway is ready: try again\n")
