"""The topology of `compose.yaml` as plain processes: balancer, two gateways, Redis, MariaDB and the real Triton."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

import starling_client
from launcher.triton import TritonProcess
from session_store.factory import open_transcript_store
from starling_client import Final, Reconnected, ResumePolicy
from tests.end_to_end.gateway import GatewayProcess
from tests.end_to_end.speaker import clip, frames
from tests.servers.haproxy import HaproxyServer
from tests.servers.mariadb import MariadbServer
from tests.servers.redis import RedisServer

pytestmark = [pytest.mark.triton, pytest.mark.redis, pytest.mark.mariadb, pytest.mark.haproxy]

POLICY = ResumePolicy(backoff_base_s=0.05, backoff_cap_s=0.5, reconnect_timeout_s=60)
SPEAKERS = 3
SLOW = 0.5
"""Speed of what is said while gateways go and come, of real time: what is said must outlast them."""

FAST = 6.0
DEADLINE_S = 200.0

Said = list[tuple[int, str, float, float]]


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


def speech() -> bytes:
    """Half a minute with pauses, and the silence that ends the last segment."""
    pieces = [clip(name).samples for name in ("jfk", "librivox_sense_0870", "librivox_sense_0880")]
    pause = np.zeros(12000, np.int16)
    return np.concatenate([part for piece in pieces for part in (piece, pause)]).tobytes()


async def paced(data: bytes, hurry: asyncio.Event) -> AsyncIterator[bytes]:
    """Frames of 20 ms, slow until `hurry` is set and fast from then on."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for frame in frames(data, 640):
        due += 0.02 / (FAST if hurry.is_set() else SLOW)
        await asyncio.sleep(max(0.0, due - loop.time()))
        yield frame


async def transcribe(url: str, hurry: asyncio.Event, heard: asyncio.Event | None = None) -> tuple[str, Said, int]:
    """Session id, finals and resumes of a whole session; `heard` is set at the first partial."""
    session_id, finals, resumed = "", list[tuple[int, str, float, float]](), 0
    connecting = starling_client.connect(url, policy=POLICY, session_label="topology")
    async with asyncio.timeout(DEADLINE_S), connecting as session:
        async for event in session.stream(paced(speech(), hurry)):
            match event:
                case starling_client.SessionStarted():
                    session_id = event.session_id
                case starling_client.Partial() if heard is not None:
                    heard.set()
                case Final():
                    finals.append((event.seq, event.text, event.start, event.end))
                case Reconnected():
                    resumed += 1
    return session_id, finals, resumed


async def test_a_rolling_restart_of_both_gateways_loses_no_word(topology: Topology) -> None:
    balancer = topology.balancer
    is_over, always = asyncio.Event(), asyncio.Event()
    always.set()
    _, undisturbed, resumed = await transcribe(balancer.url, always)
    assert undisturbed
    assert not resumed
    assert clip("jfk").word_error_rate(" ".join(text for _, text, _, end in undisturbed if end < 11.5)) < 0.3

    heard = [asyncio.Event() for _ in range(SPEAKERS)]
    async with asyncio.TaskGroup() as speakers:
        sessions = [speakers.create_task(transcribe(balancer.url, is_over, event)) for event in heard]
        async with asyncio.timeout(60):
            await asyncio.gather(*(event.wait() for event in heard))
        await topology.restart_one_by_one()
        is_over.set()

    assert [session.result()[1] for session in sessions] == [undisturbed] * SPEAKERS
    # Each gateway went away under somebody, and every client came back.
    assert sum(session.result()[2] for session in sessions) >= SPEAKERS
    stored = open_transcript_store(topology.transcripts)
    try:
        for session in sessions:
            session_id, finals, _ = session.result()
            kept = await stored.finals(session_id)
            assert [(final.seq, final.text) for final in kept] == [(seq, text) for seq, text, _, _ in finals]
    finally:
        await stored.close()


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
