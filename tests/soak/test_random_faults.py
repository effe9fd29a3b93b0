"""Everything that can break breaks at random while people speak: nothing is lost and nothing comes twice."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from launcher.errors import LauncherError
from launcher.triton import TritonProcess
from starling_client import ConnectError, ResumePolicy
from tests.end_to_end.conftest import MakeTriton, supervised
from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.proxy import FaultyProxy
from tests.end_to_end.streams import Transcript, speech, transcribe
from tests.servers.redis import RedisServer
from tests.soak.report import record, setting, tell

pytestmark = [pytest.mark.soak, pytest.mark.triton, pytest.mark.redis, pytest.mark.timeout(0)]

NAME = "random faults"
FAULTS = setting("FAULTS", 500)
SEED = setting("SEED", 7)
SPEAKERS = 3
POLICY = ResumePolicy(
    backoff_base_s=0.05,
    backoff_cap_s=1.0,
    reconnect_timeout_s=280,
    dead_after_s=6,
    ping_interval_s=2,
    connect_timeout_s=60,
)


class Chaos:
    """Breaks one thing at a time and mends it where it does not mend itself."""

    def __init__(
        self,
        chance: random.Random,
        proxy: FaultyProxy,
        gateways: list[GatewayProcess],
        triton: TritonProcess,
        redis: RedisServer,
    ) -> None:
        self._chance = chance
        self._proxy = proxy
        self._gateways = gateways
        self._triton = triton
        self._redis = redis
        self.done: Counter[str] = Counter()
        self._faults: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.reset, 50),
            (self.stall, 10),
            (self.delay, 8),
            (self.kill_gateway, 8),
            (self.stop_gateway, 4),
            (self.pause_gateway, 4),
            (self.pause_triton, 4),
            (self.kill_stub, 2),
            (self.kill_triton, 2),
            (self.pause_redis, 5),
            (self.kill_redis, 3),
        ]

    async def strike(self) -> None:
        """One fault."""
        faults, weights = zip(*self._faults, strict=True)
        [fault] = self._chance.choices(faults, weights)
        tell(NAME, f"{self.done.total() + 1} of {FAULTS}: {fault.__name__.replace('_', ' ')}")
        await fault()
        self.done[fault.__name__.replace("_", " ")] += 1
        await asyncio.sleep(self._chance.uniform(0.1, 1.5))

    async def reset(self) -> None:
        self._proxy.reset_all()

    async def stall(self) -> None:
        self._proxy.stall()
        await asyncio.sleep(self._chance.uniform(0.2, 9))
        self._proxy.flow()

    async def delay(self) -> None:
        self._proxy.delay = lambda: self._chance.uniform(0, 0.2)
        await asyncio.sleep(self._chance.uniform(0.5, 3))
        self._proxy.delay = lambda: 0.0

    async def kill_gateway(self) -> None:
        gone, left = self._two()
        self._proxy.target = left.port
        await asyncio.to_thread(gone.kill)
        await asyncio.to_thread(gone.start)

    async def stop_gateway(self) -> None:
        gone, left = self._two()
        self._proxy.target = left.port
        await asyncio.to_thread(gone.terminate)
        await asyncio.to_thread(gone.start)

    async def pause_gateway(self) -> None:
        """So long that its clients may have gone elsewhere when it wakes up with what it held."""
        one, other = self._two()
        one.send_signal(signal.SIGSTOP)
        self._proxy.target = self._chance.choice((one, other)).port
        await asyncio.sleep(self._chance.uniform(0.5, 9))
        one.send_signal(signal.SIGCONT)

    async def pause_triton(self) -> None:
        with suppress(LauncherError):  # it is just being started again
            self._triton.pause()
            await asyncio.sleep(self._chance.uniform(0.5, 6))
            self._triton.resume()

    async def kill_stub(self) -> None:
        self._triton.kill_stub("asr", self._chance.choice((1, None)))

    async def kill_triton(self) -> None:
        with suppress(LauncherError):
            self._triton.kill()

    async def pause_redis(self) -> None:
        self._redis.pause()
        await asyncio.sleep(self._chance.uniform(0.5, 10))
        self._redis.resume()

    async def kill_redis(self) -> None:
        await asyncio.to_thread(self._redis.kill)
        await asyncio.sleep(self._chance.uniform(0, 4))
        await asyncio.to_thread(self._redis.start)

    def _two(self) -> tuple[GatewayProcess, GatewayProcess]:
        one, other = self._chance.sample(self._gateways, 2)
        return one, other


async def test_random_faults_lose_and_double_nothing(make_triton: MakeTriton, make_gateway: MakeGateway) -> None:
    triton = make_triton(["asr", "punctuation"])
    with RedisServer(persistent=True) as redis:
        shared = {
            "triton_addresses": [triton.options.grpc_url],
            "session_store": redis.url,
            "resume_window_s": 300,
            "models": {"asr": ["en"]},
            "max_final_delay_s": 600,
            "max_partial_delay_s": 600,
            "final_deadline_s": 600,
        }
        first = make_gateway(folder="one", **shared)
        second = make_gateway(folder="two", state_dir=str(first.folder / "state"), **shared)
        plain = await transcribe(first.url, speech(), punctuate=False)
        async with supervised(triton), FaultyProxy(first.port) as proxy:
            chaos = Chaos(random.Random(SEED), proxy, [first, second], triton, redis)
            started = time.monotonic()
            is_over = asyncio.Event()
            speakers = [asyncio.create_task(_speak(proxy.url, is_over)) for _ in range(SPEAKERS)]
            while chaos.done.total() < FAULTS:
                await chaos.strike()
                for speaker in speakers:
                    if speaker.done():
                        await speaker  # it failed: say so at once
            is_over.set()
            heard = [session for sessions in await asyncio.gather(*speakers) for session in sessions]
    lost = sum(len(set(plain.said) - set(session.said)) for session in heard)
    doubled = sum(len(session.said) - len({seq for seq, *_ in session.said}) for session in heard)
    differing = sum(session.said != plain.said for session in heard)
    kinds = ", ".join(f"{count} {kind}" for kind, count in chaos.done.most_common())
    resumed = sum(session.resumed for session in heard)
    record(
        NAME,
        f"{FAULTS} faults ({kinds}) in {time.monotonic() - started:.0f} s over {len(heard)} sessions, "
        f"resumed {resumed} times",
        f"{lost} finals lost or changed, {doubled} doubled, {differing} sessions differ from an undisturbed one",
    )
    assert (lost, doubled, differing) == (0, 0, 0)
    for gateway in (first, second):
        assert gateway.metric("starling_faults_total") == 0


async def _speak(url: str, is_over: asyncio.Event) -> list[Transcript]:
    """Session after session until the last fault has been."""
    heard = []
    while not is_over.is_set():
        one = Transcript()
        try:
            heard.append(await transcribe(url, speech(), POLICY, into=one, deadline_s=900, punctuate=False))
        except ConnectError:
            # A fault may hit the very first attempt: then there is no session yet, and nothing to lose.
            if one.session_id:
                raise
    return heard
