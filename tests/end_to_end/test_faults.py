"""Tritons and stores that fail while people speak: nobody loses a word, and everybody is told."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from websockets.exceptions import ConnectionClosed

from launcher.ports import lease_port
from launcher.triton import TritonProcess
from session_store.base import PartialFeed
from session_store.factory import open_session_store, sqlite_url
from starling_client import Ack, ErrorEvent, Final
from tests.end_to_end.conftest import supervised
from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.proxy import FaultyProxy
from tests.end_to_end.speaker import clip, frames, recite, speaking
from tests.end_to_end.streams import PATIENT, Said, Transcript, speech, stored, transcribe, until_speech
from tests.server.inference.fake_triton import AbortError, Asked, FakeTriton
from tests.servers.mariadb import MariadbServer
from tests.servers.process import Server
from tests.servers.redis import RedisServer

pytestmark = [pytest.mark.triton, pytest.mark.timeout(300)]

ENGLISH: dict[str, Any] = {"models": {"asr": ["en"]}, "punctuation_languages": []}
"""Settings for a Triton that serves nothing else."""

SOON_S = 0.5
"""After this a store that hangs counts as gone."""

NAMES = ("jfk", "librivox_sense_0880")


def words() -> bytes:
    return speech(*NAMES)


@pytest.fixture(scope="module")
def undisturbed(gateway: GatewayProcess) -> list[Said]:
    heard = asyncio.run(transcribe(gateway.url, words(), PATIENT, punctuate=False))
    assert len(heard.finals) >= 2
    return heard.said


async def transcribing(gateway: GatewayProcess, heard: Transcript, speed: float = 2.0) -> Transcript:
    """A session that is watched by the test while it goes on; starts with somebody speaking."""
    return await transcribe(gateway.url, words(), PATIENT, speed=speed, into=heard, punctuate=False)


def was_told(heard: Transcript) -> bool:
    return any(error.recoverable for error in heard.errors)


# --- Triton


@pytest.fixture(scope="module")
def fragile(fragile_triton: TritonProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that has nothing but the Triton that the tests break."""
    folder = tmp_path_factory.mktemp("fragile-gateway")
    # The delay of one test's outage must not keep the next one's session out.
    process = GatewayProcess(
        folder, [fragile_triton.options.grpc_url], max_final_delay_s=600, max_partial_delay_s=600, **ENGLISH
    )
    try:
        yield process.start()
    finally:
        process.close()


async def test_a_triton_that_is_killed_and_started_again(
    fragile: GatewayProcess, fragile_triton: TritonProcess, undisturbed: list[Said]
) -> None:
    heard = Transcript()
    speaker = asyncio.create_task(transcribing(fragile, heard))
    await heard.until_words()
    fragile_triton.kill()
    # Told before anything is back that could answer.
    await heard.until(was_told)
    await asyncio.to_thread(fragile_triton.stop)
    await asyncio.to_thread(fragile_triton.start_ready)
    assert (await speaker).said == undisturbed


@asynccontextmanager
async def killing(
    gateway: GatewayProcess, triton: TritonProcess, count: int | None
) -> AsyncIterator[tuple[Transcript, asyncio.Task[Transcript]]]:
    """Somebody speaks, and so many of the model's processes, all when None, have just been killed."""
    heard = Transcript()
    async with supervised(triton):
        speaker = asyncio.create_task(transcribing(gateway, heard))
        await heard.until_words()
        killed = triton.kill_stub("asr", count)
        assert killed == count if count is not None else killed >= 1
        yield heard, speaker


async def test_a_model_whose_processes_are_killed_is_healed(
    fragile: GatewayProcess, fragile_triton: TritonProcess, undisturbed: list[Said]
) -> None:
    async with killing(fragile, fragile_triton, None) as (heard, speaker):
        await heard.until(was_told)
        assert (await speaker).said == undisturbed


async def test_a_model_goes_on_with_one_of_its_processes_killed(
    fragile: GatewayProcess, fragile_triton: TritonProcess, undisturbed: list[Said]
) -> None:
    async with killing(fragile, fragile_triton, 1) as (_, speaker):
        assert (await speaker).said == undisturbed


async def test_half_a_minute_of_audio_waits_for_a_triton_that_hangs(
    fragile: GatewayProcess, fragile_triton: TritonProcess, undisturbed: list[Said]
) -> None:
    heard = Transcript()
    before = await asyncio.to_thread(fragile.metric, "starling_audio_seconds_total")
    speaker = asyncio.create_task(transcribing(fragile, heard, speed=6.0))
    await heard.until_words()
    fragile_triton.pause()
    try:
        await heard.until(was_told)
        await until_heard(fragile, before + len(words()) / 32000)
        await asyncio.sleep(3)  # it hangs for some time after all has been said
    finally:
        fragile_triton.resume()
    assert (await speaker).said == undisturbed
    assert not heard.resumed


async def test_one_of_several_tritons_is_killed_and_one_was_never_there(
    triton: TritonProcess, fragile_triton: TritonProcess, make_gateway: MakeGateway, undisturbed: list[Said]
) -> None:
    with lease_port() as nobody:
        addresses = [f"127.0.0.1:{nobody.port}", fragile_triton.options.grpc_url, triton.options.grpc_url]
        gateway = make_gateway(triton_addresses=addresses, **ENGLISH)
        heard = Transcript()
        speaker = asyncio.create_task(transcribing(gateway, heard))
        await heard.until_words()
        fragile_triton.kill()
        try:
            assert (await speaker).said == undisturbed
            assert not heard.errors
            assert gateway.get("/readyz")[0] == 200
        finally:
            await asyncio.to_thread(fragile_triton.stop)
            await asyncio.to_thread(fragile_triton.start_ready)


async def test_a_triton_that_answers_every_third_request_with_an_error(make_gateway: MakeGateway) -> None:
    async with FakeTriton("asr") as fake:
        gateway = await asyncio.to_thread(make_gateway, triton_addresses=[fake.address], **ENGLISH)
        plain = await transcribe(gateway.url, words(), PATIENT, punctuate=False)
        numbers, failed = itertools.count(1), 0

        def fail(asked: Asked) -> None:
            nonlocal failed
            if next(numbers) % 3 == 0:
                failed += 1
                raise AbortError(grpc.StatusCode.INTERNAL, "something broke")

        fake.models["asr"].trouble = fail
        heard = await transcribe(gateway.url, words(), PATIENT, punctuate=False)
    assert failed > 3
    assert len(plain.finals) >= 2
    assert heard.said == plain.said


async def test_a_line_that_breaks_between_the_end_and_the_last_final(make_gateway: MakeGateway) -> None:
    """The last final comes while nobody is there: it waits for the client, and so does the end."""
    async with FakeTriton("asr") as fake:
        gateway = await asyncio.to_thread(make_gateway, triton_addresses=[fake.address], **ENGLISH)
        plain = await recite(gateway.url, words(), start={"punctuate": False})
        fake.models["asr"].gate.clear()
        async with speaking(gateway.url) as first:
            await first.say({"type": "start", "punctuate": False})
            opened = await first.next("session")
            await first.say(*frames(words(), 6400), {"type": "end"}, {"type": "keepalive"})
            await until_heard(gateway, 2 * len(words()) / 32000)
            await asyncio.sleep(0.5)  # nothing tells that the end has been understood
            first.socket.transport.abort()
        fake.models["asr"].gate.set()
        async with asyncio.timeout(60):
            while len(await stored(gateway, opened["session_id"])) < len(plain.finals):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # in which it might be forgotten
        async with speaking(gateway.url) as again:
            resume = {"type": "resume", "token": opened["token"], "last_seq": -1, "from_offset": len(words()) // 2}
            await again.say(resume, {"type": "end"})
            heard = await again.listen()
    assert heard.finals == plain.finals
    assert heard.code == 1000


async def until_heard(gateway: GatewayProcess, seconds: float) -> None:
    """Waits until a gateway has received so much audio since its start."""
    async with asyncio.timeout(60):
        while await asyncio.to_thread(gateway.metric, "starling_audio_seconds_total") < seconds - 0.01:
            await asyncio.sleep(0.05)


# --- Redis


@pytest.fixture
def sharing(redis_server: RedisServer, make_gateway: MakeGateway) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    """Two gateways that share a Redis and a transcript store."""
    redis_server.flush()
    first = make_gateway(folder="first", session_store=redis_server.url, resume_window_s=8)
    second = make_gateway(
        folder="second", session_store=redis_server.url, state_dir=str(first.folder / "state"), resume_window_s=8
    )
    yield first, second
    redis_server.resume()


@pytest.mark.redis
async def test_another_gateway_on_the_same_redis_goes_on(
    sharing: tuple[GatewayProcess, GatewayProcess], undisturbed: list[Said]
) -> None:
    first, second = sharing
    async with FaultyProxy(first.port) as proxy:
        speaker = asyncio.create_task(transcribe(proxy.url, words(), PATIENT, punctuate=False))
        await until_speech(first)
        proxy.target = second.port
        await asyncio.to_thread(first.kill)
        heard = await speaker
    assert heard.said == undisturbed
    assert heard.resumed


@pytest.mark.redis
async def test_an_owner_that_slept_through_its_replacement_writes_nothing(
    sharing: tuple[GatewayProcess, GatewayProcess], undisturbed: list[Said]
) -> None:
    first, second = sharing
    data = words()
    async with speaking(first.url) as sleeper, speaking(second.url) as successor:
        await sleeper.say({"type": "start", "punctuate": False})
        opened = await sleeper.next("session")
        await sleeper.say(*frames(data[: len(data) // 3], 6400))
        await sleeper.next("final")
        first.send_signal(signal.SIGSTOP)
        try:
            # These it will read when it wakes up, as if it still were their session's owner.
            rest = asyncio.create_task(sleeper.say(*frames(data[len(data) // 3 :], 6400), {"type": "end"}))
            await successor.say({"type": "resume", "token": opened["token"], "last_seq": -1, "from_offset": 0})
            assert (await successor.next("session"))["resumed"] is True
            await successor.say(*frames(data, 6400))
            for _ in range(len(undisturbed) - 1):
                await successor.next("final")
        finally:
            first.send_signal(signal.SIGCONT)
        assert (await sleeper.listen()).code == 4103
        with suppress(ConnectionClosed):
            await rest
        await successor.say({"type": "end"})
        heard = await successor.listen()
    assert [(final["seq"], final["text"], final["start"], final["end"]) for final in heard.finals] == undisturbed
    assert heard.code == 1000
    assert len(sleeper.heard.finals) < len(undisturbed) - 1
    assert await stored(first, opened["session_id"]) == undisturbed


@pytest.mark.redis
async def test_a_takeover_on_another_gateway_closes_the_first_connection(
    sharing: tuple[GatewayProcess, GatewayProcess],
) -> None:
    first, second = sharing
    async with speaking(first.url) as older, speaking(second.url) as newer:
        await older.say({"type": "start"})
        token = (await older.next("session"))["token"]
        await newer.say({"type": "resume", "token": token, "last_seq": -1, "from_offset": 0})
        assert (await newer.next("session"))["resumed"] is True
        assert (await older.listen()).code == 4103
        await newer.say(*frames(clip("librivox_sense_0880").pcm(), 6400), {"type": "end"})
        heard = await newer.listen()
    assert heard.code == 1000
    assert heard.finals


@pytest.mark.redis
async def test_another_process_follows_a_session_live(
    sharing: tuple[GatewayProcess, GatewayProcess], redis_server: RedisServer
) -> None:
    first, _ = sharing
    store = open_session_store(redis_server.url)
    assert isinstance(store, PartialFeed)
    seen: list[dict[str, Any]] = []
    heard = Transcript()
    try:
        speaker = asyncio.create_task(transcribing(first, heard))
        await heard.until(lambda heard: bool(heard.session_id))
        async with asyncio.timeout(90):
            seen.extend([news async for news in store.follow(heard.session_id)])
        await speaker
    finally:
        await store.close()
    finals = [(news["seq"], news["text"], news["start"], news["end"]) for news in seen if news["type"] == "final"]
    assert finals == heard.said
    assert any(news["type"] == "partial" for news in seen)


# --- stores that go away


async def goes_on_without(
    gateway: GatewayProcess, store: Server, undisturbed: list[Said], *, is_killed: bool = False, gone_s: float = 0
) -> None:
    """Takes the store away while somebody speaks, looks at what the client gets meanwhile, and brings it back."""
    heard = Transcript()
    speaker = asyncio.create_task(transcribing(gateway, heard))
    await heard.until_words()
    back_at = time.monotonic() + gone_s
    await asyncio.to_thread(store.kill if is_killed else store.pause)
    try:
        told = await check_goes_on(gateway, heard)
        await asyncio.sleep(max(0.0, back_at - time.monotonic()))
        assert not [event for event in heard.events[told:] if isinstance(event, Final | Ack)]
    finally:
        await asyncio.to_thread(store.start if is_killed else store.resume)
    assert (await speaker).said == undisturbed
    assert not heard.resumed
    assert await stored(gateway, heard.session_id) == undisturbed


async def check_goes_on(gateway: GatewayProcess, heard: Transcript) -> int:
    """The client is told and promised nothing, and all that it says is taken; how many events came before."""
    await heard.until(was_told)
    told = len(heard.events)
    await until_heard(gateway, len(words()) / 32000)
    assert not [event for event in heard.events[told:] if isinstance(event, Final | Ack)]
    assert not [event for event in heard.events if isinstance(event, ErrorEvent) and not event.recoverable]
    return told


@pytest.mark.redis
async def test_redis_hangs(redis_server: RedisServer, make_gateway: MakeGateway, undisturbed: list[Said]) -> None:
    gateway = make_gateway(session_store=redis_server.url, store_timeout_s=SOON_S)
    await goes_on_without(gateway, redis_server, undisturbed, gone_s=10)


@pytest.mark.redis
async def test_redis_is_killed_and_comes_back_with_nothing(
    redis_server: RedisServer, make_gateway: MakeGateway, undisturbed: list[Said]
) -> None:
    gateway = make_gateway(session_store=redis_server.url, store_timeout_s=SOON_S)
    await goes_on_without(gateway, redis_server, undisturbed, is_killed=True)


@pytest.mark.mariadb
async def test_the_transcripts_mariadb_hangs(
    mariadb_server: MariadbServer, make_gateway: MakeGateway, undisturbed: list[Said]
) -> None:
    gateway = make_gateway(transcript_store=mariadb_server.url, store_timeout_s=SOON_S)
    await goes_on_without(gateway, mariadb_server, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mounting, check=False, capture_output=True).returncode:
        pytest.skip("left out: only root can mount a small file system to fill; run as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_the_disk_is_full(small_disk: Path, make_gateway: MakeGateway, undisturbed: list[Said]) -> None:
    gateway = make_gateway(
        session_store=sqlite_url(small_disk / "sessions.sqlite"),
        transcript_store=sqlite_url(small_disk / "transcripts.sqlite"),
    )
    heard = Transcript()
    speaker = asyncio.create_task(transcribing(gateway, heard))
    await heard.until_words()
    filler = small_disk / "filler"
    fill(filler)
    await check_goes_on(gateway, heard)
    filler.unlink()
    assert (await speaker).said == undisturbed
    assert not heard.resumed
    assert await stored(gateway, heard.session_id) == undisturbed


def fill(path: Path) -> None:
    """Takes every byte that is left."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as full:
            assert full.errno == errno.ENOSPC  # noqa: PT017  what is expected is that it comes at last
