"""Too much at once: who is in stays well, who does not read or sends too fast is held back, workers share the port."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.end_to_end.deaf import BAD_LANGUAGE, deaf, standing
from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.proxy import FaultyProxy, random_cuts
from tests.end_to_end.speaker import Heard, Speaker, frames, recite, speaking
from tests.end_to_end.streams import PATIENT, Said, Transcript, paced, speech, transcribe
from tests.server.inference.fake_triton import FakeTriton

pytestmark = [pytest.mark.triton, pytest.mark.timeout(300)]

ENGLISH: dict[str, Any] = {"models": {"asr": ["en"]}, "punctuation_languages": []}
MIB = 1 << 20


def words() -> bytes:
    return speech("jfk", "librivox_sense_0880")


@pytest.fixture(scope="module")
def undisturbed(gateway: GatewayProcess) -> list[Said]:
    heard = asyncio.run(transcribe(gateway.url, words(), PATIENT, punctuate=False))
    assert len(heard.finals) >= 2
    return heard.said


async def refused(url: str) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as refusal:
        await connect(url)
    return refusal.value


# --- admission


async def test_a_session_that_is_in_stays_well_when_others_are_refused(
    make_gateway: MakeGateway, undisturbed: list[Said]
) -> None:
    gateway = make_gateway(max_sessions=1)
    heard = Transcript()
    speaker = asyncio.create_task(transcribe(gateway.url, words(), PATIENT, speed=6, into=heard, punctuate=False))
    await heard.until_words()
    for _ in range(20):
        refusal = await refused(gateway.url)
        assert refusal.response.status_code == 503
        assert int(refusal.response.headers["Retry-After"]) > 0
    assert not speaker.done()
    assert (await speaker).said == undisturbed
    assert not heard.errors
    assert not heard.resumed


async def test_late_finals_refuse_new_sessions_but_none_that_is_in(make_gateway: MakeGateway) -> None:
    async with FakeTriton("asr") as fake, FaultyProxy(0) as proxy:
        gateway = await asyncio.to_thread(
            make_gateway, triton_addresses=[fake.address], max_final_delay_s=0.5, final_timeout_s=60, **ENGLISH
        )
        proxy.target = gateway.port
        plain = await transcribe(gateway.url, words(), PATIENT, punctuate=False)
        heard = Transcript()
        speaker = asyncio.create_task(transcribe(proxy.url, words(), PATIENT, into=heard, punctuate=False))
        await heard.until_words()
        fake.models["asr"].gate.clear()
        async with asyncio.timeout(60):
            while (status := await admission(gateway)) != 503:
                assert status == 101
                await asyncio.sleep(0.1)
        proxy.reset_all()
        await heard.until(lambda heard: heard.resumed > 0, timeout_s=30)
        assert int((await refused(gateway.url)).response.headers["Retry-After"]) > 0
        fake.models["asr"].gate.set()
        assert (await speaker).said == plain.said


async def test_a_session_of_another_gateway_gets_in_past_the_limit(
    make_gateway: MakeGateway, undisturbed: list[Said]
) -> None:
    first = make_gateway(folder="first")
    second = make_gateway(folder="second", state_dir=str(first.folder / "state"), max_sessions=1)
    async with speaking(second.url) as local, FaultyProxy(first.port) as proxy:
        await local.say({"type": "start"})
        await local.next("session")
        heard = Transcript()
        speaker = asyncio.create_task(transcribe(proxy.url, words(), PATIENT, speed=6, into=heard, punctuate=False))
        await heard.until_words()
        proxy.target = second.port
        await asyncio.to_thread(first.kill)
        await heard.until(lambda heard: heard.resumed > 0)
        assert (await refused(second.url)).response.status_code == 503
        assert (await refused(f"{second.url}?resume=0123456789abcdef")).response.status_code == 503
        assert (await speaker).said == undisturbed
        await local.say({"type": "end"})
        assert (await local.listen()).code == 1000


async def test_the_reserve_has_an_end_and_is_for_those_who_resume(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(max_sessions=1, resume_reserve=1)
    async with speaking(gateway.url) as speaker:
        await speaker.say({"type": "start"})
        opened = await speaker.next("session")
        named = f"{gateway.url}?resume={opened['session_id']}"
        async with speaking(named) as silent:
            assert (await refused(named)).response.status_code == 503
            heard = await silent.listen()
        await only_one_is_left(gateway, heard)
        for sent in ({"type": "start"}, bytes(640)):
            async with speaking(named) as new:
                await new.say(sent)
                heard = await new.listen()
            await only_one_is_left(gateway, heard)
        async with speaking(named) as again:
            await again.say({"type": "resume", "token": opened["token"], "last_seq": -1, "from_offset": 0})
            assert (await again.next("session"))["resumed"] is True
            assert (await speaker.listen()).code == 4103
            await again.say({"type": "end"})
            assert (await again.listen()).code == 1000
    await asyncio.to_thread(gateway.wait_metric, "starling_sessions", 0)
    async with speaking(gateway.url):
        assert (await refused(named)).response.status_code == 503, "the session is over"


async def only_one_is_left(gateway: GatewayProcess, heard: Heard) -> None:
    """Checks how a client was sent away that did not resume, and waits until its place is free."""
    assert heard.code == 1013
    [error] = heard.messages
    assert error["code"] == 1013
    assert error["retry_after_ms"] > 0
    await asyncio.to_thread(gateway.wait_metric, 'starling_connections{protocol="stream"}', 1)


async def admission(gateway: GatewayProcess) -> int:
    """What a new client gets: 101 where it is let in."""
    try:
        async with connect(gateway.url):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


# --- clients that do not read, or send too fast


async def test_a_client_that_does_not_read_gets_fewer_partials_and_every_final(
    make_gateway: MakeGateway, undisturbed: list[Said]
) -> None:
    gateway = make_gateway(max_controls_per_s=1e6, send_timeout_s=120)
    client = await deaf(gateway)
    others = asyncio.create_task(transcribe(gateway.url, words(), PATIENT, speed=4, punctuate=False))
    speaker = Speaker(client)
    async for frame in paced(words(), 4):
        await speaker.say(frame)
    await speaker.say({"type": "end"})
    other = await others
    heard = await speaker.listen()
    assert [(final["seq"], final["text"], final["start"], final["end"]) for final in heard.finals] == undisturbed
    assert other.said == undisturbed
    assert len(heard.of("partial")) < other.partials
    assert heard.code == 1000


async def test_a_client_that_never_reads_is_cut_off_with_4104_and_loses_nothing(
    make_gateway: MakeGateway, undisturbed: list[Said]
) -> None:
    gateway = make_gateway(max_controls_per_s=1e6, send_timeout_s=120)
    client = await deaf(gateway)
    speaker = Speaker(client)
    others = asyncio.create_task(transcribe(gateway.url, words(), PATIENT, punctuate=False))
    for _ in range(400):
        await client.send(BAD_LANGUAGE)
    other = await others
    heard = await speaker.listen()
    assert heard.code == 4104
    assert heard.of("error")[-1]["code"] == 4104
    assert other.said == undisturbed
    assert not other.resumed
    async with speaking(gateway.url) as again:
        resume = {"type": "resume", "token": heard.messages[0]["token"], "last_seq": -1, "from_offset": 0}
        await again.say(resume, *frames(words(), 6400), {"type": "end"})
        back = await again.listen()
    assert [(final["seq"], final["text"], final["start"], final["end"]) for final in back.finals] == undisturbed


async def test_a_client_that_sends_too_fast_is_held_back_by_not_reading(make_gateway: MakeGateway) -> None:
    """Four minutes of speech meet a Triton that does not answer: a good minute waits here, the rest with the client."""
    data = words() * 16
    seconds = len(data) / 32000
    async with FakeTriton("asr") as fake:
        gateway = await asyncio.to_thread(make_gateway, triton_addresses=[fake.address], **ENGLISH)
        plain = await recite(gateway.url, words())
        process = psutil.Process(gateway.pid)
        before = process.memory_info().rss
        had = gateway.metric("starling_audio_seconds_total")
        fake.models["asr"].gate.clear()
        reciting = asyncio.create_task(recite(gateway.url, data))
        taken = await asyncio.to_thread(standing, gateway, "starling_audio_seconds_total")
        assert 30 < taken - had < 100 < seconds
        assert process.memory_info().rss - before < 48 * MIB
        fake.models["asr"].gate.set()
        heard = await reciting
        assert process.memory_info().rss - before < 64 * MIB
    assert [final["seq"] for final in heard.finals] == list(range(len(heard.finals)))
    assert len(heard.finals) >= 15 * len(plain.finals)
    assert heard.messages[-1]["audio_seconds"] == pytest.approx(seconds)


# --- several processes on one port


def family(gateway: GatewayProcess) -> list[psutil.Process]:
    """The workers of a gateway."""
    return psutil.Process(gateway.pid).children()


def until_ready(gateway: GatewayProcess, count: int) -> None:
    """Waits until so many workers have said that they are ready."""
    deadline = time.monotonic() + 60
    while gateway.log.count('"event":"ready"') < count:
        assert time.monotonic() < deadline, gateway.log
        time.sleep(0.05)


async def test_a_session_resumes_on_any_worker_and_a_worker_that_dies_is_replaced(
    make_gateway: MakeGateway, undisturbed: list[Said]
) -> None:
    gateway = make_gateway(workers=2)
    await asyncio.to_thread(until_ready, gateway, 2)
    workers = family(gateway)
    assert len(workers) == 2
    async with FaultyProxy(gateway.port) as proxy:
        proxy.fault = random_cuts(6, 120_000, seed=4)
        heard = Transcript()
        speaker = asyncio.create_task(transcribe(proxy.url, words(), PATIENT, into=heard, punctuate=False))
        await heard.until_words()
        holder = await asyncio.to_thread(holder_of_a_connection, gateway, workers)
        holder.kill()
        await speaker
    assert heard.said == undisturbed
    assert heard.resumed >= 3
    await asyncio.to_thread(until_ready, gateway, 3)
    now = {worker.pid for worker in family(gateway)}
    assert len(now) == 2
    assert holder.pid not in now
    assert "from store" in gateway.log
    await gone_after(gateway, signal.SIGTERM)


def holder_of_a_connection(gateway: GatewayProcess, workers: list[psutil.Process]) -> psutil.Process:
    """The worker that the client is connected to; between two connections it waits for the next."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for worker in workers:
            for one in worker.net_connections("tcp"):
                if one.status == psutil.CONN_ESTABLISHED and one.laddr.port == gateway.port:
                    return worker
    raise AssertionError("no worker has a connection")


async def test_workers_do_not_outlive_the_process_that_started_them(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(workers=2)
    await asyncio.to_thread(until_ready, gateway, 2)
    await gone_after(gateway, signal.SIGKILL)
    await asyncio.to_thread(gateway.start)
    await asyncio.to_thread(until_ready, gateway, 4)
    await gone_after(gateway, signal.SIGINT)


async def gone_after(gateway: GatewayProcess, number: signal.Signals) -> None:
    """A signal ends all of them; Ctrl-C goes to the workers too, as on a terminal."""
    workers = family(gateway)
    if number is signal.SIGINT:
        for worker in workers:
            worker.send_signal(number)
    if number is signal.SIGKILL:
        await asyncio.to_thread(gateway.kill)
    else:
        gateway.send_signal(number)
        assert await asyncio.to_thread(gateway.wait_exit) == 0
    _, left = await asyncio.to_thread(psutil.wait_procs, workers, timeout=20)
    assert not left


def test_workers_refuse_what_they_could_not_share(make_gateway: MakeGateway) -> None:
    with pytest.raises(AssertionError, match="STARLING_SESSION_STORE: memory"):
        make_gateway(workers=2, session_store="memory://")
    with pytest.raises(AssertionError, match="STARLING_PORT"):
        make_gateway(workers=2, port=make_gateway().port)
