"""`/ws/transcribe/{session_id}`: a telephone speaks, words come back, and the id goes on where it was."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import scipy.signal
from websockets.exceptions import InvalidStatus

from server.audio.codec import encode_alaw, encode_mulaw
from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.speaker import Clip, Message, clip, frames, recite, speaking
from tests.servers.mariadb import MariadbServer

pytestmark = pytest.mark.triton

FRAME = 160
SECOND = 8000


def telephone_url(gateway: GatewayProcess, session_id: str, query: str = "") -> str:
    return f"ws://127.0.0.1:{gateway.port}/ws/transcribe/{session_id}{query}"


def at_telephone_rate(spoken: Clip) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    down = scipy.signal.resample_poly(spoken.samples.astype(float), 1, spoken.rate // SECOND)
    return np.clip(np.round(down), -32768, 32767).astype(np.int16)


async def call(url: str, data: bytes, finals: int) -> list[Message]:
    """Speaks into a telephone until so many finals have come; everything that did."""
    async with speaking(url) as speaker:
        await speaker.say(*frames(data, FRAME))
        for _ in range(finals):
            await speaker.next("final")
        return speaker.heard.messages


@pytest.mark.parametrize(("encoding", "encode"), [("mulaw", encode_mulaw), ("alaw", encode_alaw)])
async def test_a_call_gives_what_stream_gives(gateway: GatewayProcess, encoding: str, encode: object) -> None:
    samples = np.concatenate([at_telephone_rate(clip("librivox_sense_0880")), np.zeros(SECOND, np.int16)])
    data: bytes = encode(samples)  # type: ignore[operator]
    streamed = await recite(gateway.url, data, start={"encoding": encoding, "sample_rate": SECOND})
    url = telephone_url(gateway, f"same-{encoding}", "" if encoding == "mulaw" else "?encoding=alaw")
    heard = await call(url, data, len(streamed.finals))
    finals = [message for message in heard if message["type"] == "final"]
    assert [(m["seq"], m["text"]) for m in finals] == [(m["seq"], m["text"]) for m in streamed.finals]
    assert all(message["type"] in ("partial", "final") for message in heard)
    assert all(set(message) == {"type", "text", "seq"} for message in heard)


async def test_the_same_id_goes_on_from_the_last_seq(gateway: GatewayProcess) -> None:
    data = encode_mulaw(np.concatenate([at_telephone_rate(clip("librivox_sense_0880")), np.zeros(SECOND, np.int16)]))
    first = await call(telephone_url(gateway, "goes-on"), data, 1)
    second = await call(telephone_url(gateway, "goes-on"), data, 1)
    assert [m["seq"] for m in first if m["type"] == "final"] == [0]
    assert [m["seq"] for m in second if m["type"] == "final"] == [1]
    again = await call(telephone_url(gateway, "goes-on", "?after=-1"), b"", 2)
    assert [m["seq"] for m in again] == [0, 1]
    assert [m["text"] for m in again] == [m["text"] for m in first + second if m["type"] == "final"]
    assert [m["seq"] for m in await call(telephone_url(gateway, "goes-on", "?after=0"), b"", 1)] == [1]


async def test_an_id_goes_on_after_the_gateway_was_killed(make_gateway: MakeGateway) -> None:
    data = encode_mulaw(np.concatenate([at_telephone_rate(clip("librivox_sense_0880")), np.zeros(SECOND, np.int16)]))
    gateway = make_gateway(folder="telephone")
    await call(telephone_url(gateway, "survives"), data, 1)
    gateway.kill()
    gateway.start()
    second = await call(telephone_url(gateway, "survives"), data, 1)
    assert [m["seq"] for m in second if m["type"] == "final"] == [1]
    gateway.terminate()
    with closing(sqlite3.connect(next(gateway.folder.rglob("transcripts.sqlite")))) as database:
        [(table,)] = database.execute("SELECT name FROM sqlite_master WHERE name LIKE '%finals'").fetchall()
        assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (2,)


@pytest.mark.mariadb
async def test_words_go_on_while_the_store_is_away(mariadb_server: MariadbServer, make_gateway: MakeGateway) -> None:
    data = encode_mulaw(np.concatenate([at_telephone_rate(clip("librivox_sense_0880")), np.zeros(SECOND, np.int16)]))
    gateway = make_gateway(transcript_store=mariadb_server.url, store_timeout_s=1)
    async with speaking(telephone_url(gateway, "outage")) as speaker:
        await speaker.say(*frames(data, FRAME))
        first = await speaker.next("final")
        await asyncio.to_thread(mariadb_server.pause)
        try:
            await speaker.say(*frames(data, FRAME))
            for frame in frames(data, FRAME):
                await speaker.say(frame)
                await asyncio.sleep(FRAME / SECOND)  # the speed of speech, which leaves time for partials
            while (await speaker.next("partial"))["seq"] < 2:
                pass
            assert [m for m in speaker.heard.messages if m["type"] == "final"] == [first]
        finally:
            await asyncio.to_thread(mariadb_server.resume)
        finals = [first, *[await speaker.next("final") for _ in range(2)]]
    assert [final["seq"] for final in finals] == [0, 1, 2]
    assert all(final["text"] for final in finals)
    assert "store out of reach" in gateway.log


async def test_bad_frames_are_skipped_and_the_line_stays_open(gateway: GatewayProcess) -> None:
    data = encode_mulaw(np.concatenate([at_telephone_rate(clip("librivox_sense_0880")), np.zeros(SECOND, np.int16)]))
    good = await call(telephone_url(gateway, "good"), data, 1)
    async with speaking(telephone_url(gateway, "bad")) as speaker:
        pieces = list(frames(data, FRAME))
        await speaker.say("hello", b"", '{"type":"start"}', *pieces[:50], b"", bytes(100_000), "{", *pieces[50:])
        final = await speaker.next("final")
    assert final["text"] == good[-1]["text"]
    assert "bad frame skipped" in gateway.log


@pytest.mark.parametrize(
    ("target", "status"),
    [("a%20b", 400), ("", 400), ("x?encoding=opus", 400), ("x?after=two", 400), ("x?language=tlh", 400)],
)
async def test_a_call_that_cannot_be_had_is_refused_in_words(gateway: GatewayProcess, target: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with speaking(telephone_url(gateway, target)):
            pass
    assert refused.value.response.status_code == status


async def test_an_id_of_a_stream_session_is_not_to_be_had(gateway: GatewayProcess) -> None:
    async with speaking(gateway.url) as owner:
        await owner.say({"type": "start"})
        session_id = (await owner.next("session"))["session_id"]
        async with speaking(telephone_url(gateway, session_id)) as thief:
            assert (await thief.listen()).code == 4004
        await owner.say({"type": "end"})
        assert (await owner.listen()).code == 1000


async def test_a_new_caller_on_the_same_id_takes_it_over(gateway: GatewayProcess) -> None:
    data = encode_mulaw(np.concatenate([at_telephone_rate(clip("librivox_sense_0880")), np.zeros(SECOND, np.int16)]))
    async with speaking(telephone_url(gateway, "two-lines")) as first:
        await first.say(*frames(data, FRAME))
        await first.next("final")
        listening = asyncio.create_task(first.listen())
        second = await call(telephone_url(gateway, "two-lines"), data, 1)
        assert (await listening).code == 4103
    assert [m["seq"] for m in second if m["type"] == "final"] == [1]
