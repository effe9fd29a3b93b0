"""What bad input gets: the answer the protocol gives, and nobody else notices."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.speaker import Heard, Message, clip, frames, recite, speaking

pytestmark = pytest.mark.triton

START: Message = {"type": "start"}


async def send_and_listen(url: str, *sent: bytes | str | Message) -> Heard:
    async with speaking(url) as speaker:
        await speaker.say(*sent)
        return await speaker.listen()


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        (["no json"], "JSON"),
        (["[1, 2]"], "JSON object"),
        (["{}"], "type"),
        ([{"type": "begin"}], "type"),
        ([{"type": 7}], "type"),
        ([{"type": "start", "sample_rate": 4000}], "sample_rate"),
        ([{"type": "start", "sample_rate": "16000"}], "sample_rate"),
        ([{"type": "start", "encoding": "mp3"}], "encoding"),
        ([{"type": "start", "partials": "yes"}], "partials"),
        ([{"language": 5}], "language"),
        ([START, START], "start"),
        ([bytes(640), START], "start"),
        ([START, {"type": "resume", "token": "x", "last_seq": -1, "from_offset": 0}], "resume"),
        ([{"type": "resume", "token": "x", "from_offset": 0}], "last_seq"),
        ([{"type": "resume", "token": "", "last_seq": 0, "from_offset": 0}], "token"),
        ([{"type": "resume", "token": "x", "last_seq": 0, "from_offset": -1}], "from_offset"),
        ([START, {"type": "finalize", "id": 5}], "id"),
        ([START, {"type": "finalize"}, "\x00"], "JSON"),
    ],
)
async def test_what_is_no_message_closes_with_4000_and_says_why(
    gateway: GatewayProcess, sent: list[Any], named: str
) -> None:
    heard = await send_and_listen(gateway.url, *sent)
    assert heard.code == 4000
    error = heard.messages[-1]
    assert (error["type"], error["code"], error["recoverable"]) == ("error", 4000, False)
    assert named in error["message"]
    assert named in heard.reason


@pytest.mark.parametrize(
    ("start", "named"),
    [
        ({"language": "tlh"}, "language"),
        ({"endpoint_silence_ms": 50}, "endpoint_silence_ms"),
        ({"session_label": "x" * 5000}, "session_label"),
    ],
)
async def test_a_value_that_cannot_be_had_leaves_the_default(
    gateway: GatewayProcess, start: Message, named: str
) -> None:
    spoken = clip("librivox_sense_0880")
    heard = await recite(gateway.url, spoken.pcm(), start=start)
    assert [message["type"] for message in heard.messages[:2]] == ["session", "error"]
    assert heard.messages[0]["language"] == "en"
    assert heard.messages[1]["recoverable"] is True
    assert named in heard.messages[1]["message"]
    assert spoken.word_error_rate(heard.text) <= 0.2
    assert heard.code == 1000


async def test_an_unknown_language_in_mid_session_changes_nothing(gateway: GatewayProcess) -> None:
    data = clip("librivox_sense_0880").pcm()
    async with speaking(gateway.url) as speaker:
        await speaker.say(START, *frames(data, 6400), {"language": "xx"}, {"type": "end"})
        heard = await speaker.listen()
    assert [error["recoverable"] for error in heard.of("error")] == [True]
    assert [final["language"] for final in heard.finals] == ["en"]


async def test_what_comes_after_end_is_ignored(gateway: GatewayProcess) -> None:
    data = clip("librivox_sense_0880").pcm()
    plain = await recite(gateway.url, data)
    async with speaking(gateway.url) as speaker:
        await speaker.say(*frames(data, 6400), {"type": "end"}, data, "no json", START, {"type": "end"})
        heard = await speaker.listen()
    assert heard.finals == plain.finals
    assert heard.code == 1000


async def test_odd_bytes_and_empty_frames_are_pieced_together(gateway: GatewayProcess) -> None:
    data = clip("librivox_sense_0880").pcm()
    plain = await recite(gateway.url, data)
    async with speaking(gateway.url) as speaker:
        pieces = [piece for frame in frames(data, 4001) for piece in (b"", frame)]
        await speaker.say(*pieces, {"type": "end"})
        heard = await speaker.listen()
    assert heard.finals == plain.finals


async def test_half_a_sample_at_the_end_is_dropped(gateway: GatewayProcess) -> None:
    heard = await recite(gateway.url, bytes(32001))
    assert heard.messages[-1]["audio_offset"] == 16000


async def test_a_frame_over_the_limit_closes_with_1009(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(max_frame_bytes=10_000)
    heard = await send_and_listen(gateway.url, START, bytes(10_001))
    assert heard.code == 1009


@pytest.mark.parametrize("token", ["x", "0123456789abcdef.forged", "." * 100, "é" * 50, "a.b.c"])
async def test_a_forged_token_closes_with_4004(gateway: GatewayProcess, token: str) -> None:
    resume = {"type": "resume", "token": token, "last_seq": -1, "from_offset": 0}
    heard = await send_and_listen(gateway.url, resume)
    assert heard.code == 4004


async def test_a_token_with_one_wrong_character_leaves_its_owner_alone(gateway: GatewayProcess) -> None:
    data = clip("librivox_sense_0880").pcm()
    async with speaking(gateway.url) as owner:
        await owner.say(START)
        token = (await owner.next("session"))["token"]
        forged = token[:-1] + ("A" if token[-1] != "A" else "B")
        resume = {"type": "resume", "token": forged, "last_seq": -1, "from_offset": 0}
        assert (await send_and_listen(gateway.url, resume)).code == 4004
        await owner.say(*frames(data, 6400), {"type": "end"})
        assert (await owner.listen()).code == 1000


async def test_a_session_that_ended_cannot_be_resumed(gateway: GatewayProcess) -> None:
    heard = await recite(gateway.url, bytes(640))
    resume = {"type": "resume", "token": heard.messages[0]["token"], "last_seq": -1, "from_offset": 0}
    assert (await send_and_listen(gateway.url, resume)).code == 4008


async def test_the_resume_window_passes(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(resume_window_s=1)
    async with speaking(gateway.url) as speaker:
        await speaker.say(START)
        token = (await speaker.next("session"))["token"]
        speaker.socket.transport.abort()
    resume = {"type": "resume", "token": token, "last_seq": -1, "from_offset": 0}
    await asyncio.to_thread(gateway.wait_metric, "starling_sessions", 0)
    assert (await send_and_listen(gateway.url, resume)).code == 4008


@pytest.mark.parametrize("kind", ["clipped", "nan", "infinite"])
async def test_strange_samples_cost_nothing(gateway: GatewayProcess, kind: str) -> None:
    speech = clip("librivox_sense_0880").samples.astype(np.float32) / 32768
    strange = {
        "clipped": np.clip(speech * 1000, -1, 1),
        "nan": np.where(np.arange(len(speech)) % 50 == 0, np.nan, speech),
        "infinite": np.full(32000, np.inf, np.float32),
    }[kind].astype(np.float32)
    heard = await recite(gateway.url, strange.tobytes(), start={"encoding": "pcm_f32le"})
    assert heard.code == 1000
    if kind == "infinite":
        assert not heard.finals


async def test_silence_for_too_long_closes_with_4031_and_can_be_resumed(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(idle_timeout_s=1)
    heard = await send_and_listen(gateway.url, START)
    assert heard.code == 4031
    resume = {"type": "resume", "token": heard.messages[0]["token"], "last_seq": -1, "from_offset": 0}
    async with speaking(gateway.url) as speaker:
        await speaker.say(resume)
        assert (await speaker.next("session"))["resumed"] is True


async def test_a_flood_of_control_messages_is_refused(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(max_controls_per_s=2)
    heard = await send_and_listen(gateway.url, START, *[{"type": "keepalive"}] * 20)
    assert heard.code == 1008


async def test_what_is_refused_before_the_upgrade(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(max_sessions=1)
    assert gateway.get("/nowhere")[0] == 404
    assert gateway.get("/stream")[0] == 426
    with pytest.raises(InvalidStatus) as forbidden:
        await connect(gateway.url, origin="https://elsewhere.example")  # type: ignore[arg-type]
    assert forbidden.value.response.status_code == 403
    async with speaking(gateway.url) as speaker:
        await speaker.say(START)
        await speaker.next("session")
        with pytest.raises(InvalidStatus) as full:
            await connect(gateway.url)
        assert full.value.response.status_code == 503
        assert int(full.value.response.headers["Retry-After"]) > 0


async def test_bad_clients_do_not_disturb_a_good_one(gateway: GatewayProcess) -> None:
    spoken = clip("jfk")
    alone = await recite(gateway.url, spoken.pcm())
    bad: list[list[bytes | str | Message]] = [["x"], [{"type": "start", "encoding": "mp3"}], [bytes(300_000)]]
    good, *_ = await asyncio.gather(
        recite(gateway.url, spoken.pcm()), *(send_and_listen(gateway.url, *sent) for sent in bad * 5)
    )
    assert good.finals == alone.finals
    assert "exc_info" not in gateway.log
    assert "Traceback" not in gateway.log
