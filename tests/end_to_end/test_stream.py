"""The main job: speech over `/stream`, words from the real Triton."""

from __future__ import annotations

import asyncio
import itertools
import re

import numpy as np
import pytest

from server.audio.codec import encode_alaw, encode_mulaw
from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.speaker import Clip, Heard, Message, clip, frames, recite, speaking

pytestmark = pytest.mark.triton

SPOKEN = ("jfk", "librivox_sense_0870", "librivox_sense_0880", "librivox_sense_0920")
SILENCE = bytes(2 * 16000)


def check_promises(heard: Heard) -> None:
    """What holds for every connection that was not broken."""
    seqs = [final["seq"] for final in heard.finals]
    assert seqs == list(range(len(seqs)))
    acks = [ack["audio_offset"] for ack in heard.of("ack")]
    assert acks == sorted(acks)
    done: set[int] = set()
    shown: dict[int, Message] = {}
    for message in heard.messages:
        if message["type"] == "final":
            done.add(message["seq"])
        if message["type"] == "partial":
            text, stable, before = message["text"], message["stable"], shown.get(message["seq"])
            assert message["seq"] not in done
            assert text == text.lower()
            assert not re.search(r"[^\w\s'’-]", text)
            assert 0 <= stable <= len(text)
            if before is not None:
                assert text != before["text"]
                assert stable >= before["stable"]
                assert text.startswith(before["text"][: before["stable"]])
            shown[message["seq"]] = message


@pytest.mark.parametrize("name", SPOKEN)
async def test_speech_comes_back_as_text(gateway: GatewayProcess, name: str) -> None:
    spoken = clip(name)
    heard = await recite(gateway.url, spoken.pcm() + SILENCE)
    check_promises(heard)
    assert heard.messages[0]["type"] == "session"
    assert spoken.word_error_rate(heard.text) <= 0.15
    assert heard.messages[-1] == {
        "type": "done",
        "audio_offset": len(spoken.samples) + 16000,
        "segments": len(heard.finals),
        "audio_seconds": pytest.approx(len(spoken.samples) / 16000 + 1, abs=0.001),
    }
    assert heard.code == 1000
    assert all(final["punctuated"] and 0 < final["confidence"] <= 1 for final in heard.finals)


async def test_partials_come_while_the_speaker_speaks(gateway: GatewayProcess) -> None:
    spoken = clip("librivox_sense_0870")
    async with speaking(gateway.url) as speaker:
        listening = asyncio.create_task(speaker.listen())
        loop = asyncio.get_running_loop()
        started = loop.time()
        for number, frame in enumerate(frames(spoken.pcm(), 640)):
            await speaker.say(frame)
            # Real time: what is tested is that words come before the speaker has ended.
            await asyncio.sleep(max(0.0, started + number * 0.02 - loop.time()))
        spoken_partials = len(speaker.heard.of("partial"))
        await speaker.say({"type": "end"})
        heard = await listening
    check_promises(heard)
    # How many there are is up to the machine.
    assert spoken_partials >= 2


async def test_the_text_does_not_depend_on_how_frames_are_cut(gateway: GatewayProcess) -> None:
    data = clip("jfk").pcm() + SILENCE
    sizes = (333, 6400, 200_000)
    heard = await asyncio.gather(*(recite(gateway.url, data, frame=size) for size in sizes))
    first, *others = [h.finals for h in heard]
    assert all(other == first for other in others)


async def test_other_rates_and_encodings_are_understood(gateway: GatewayProcess) -> None:
    spoken = clip("librivox_sense_0880")
    floats = (spoken.samples.astype(np.float32) / 32768).tobytes()
    eight = spoken.samples[::2]
    same = await recite(gateway.url, spoken.pcm())
    as_float = await recite(gateway.url, floats, start={"encoding": "pcm_f32le"})
    assert as_float.finals == same.finals
    for encoding, data in (("mulaw", encode_mulaw(eight)), ("alaw", encode_alaw(eight))):
        heard = await recite(gateway.url, data, start={"encoding": encoding, "sample_rate": 8000})
        assert spoken.word_error_rate(heard.text) <= 0.4
    high = clip("two_cities")
    assert high.rate == 48000
    heard = await recite(gateway.url, high.pcm()[: 2 * 48000 * 9], start={"sample_rate": 48000})
    assert "it was the best of times" in heard.text.lower()


async def test_sessions_share_the_server_and_not_their_words(gateway: GatewayProcess) -> None:
    names = SPOKEN * 2
    alone = {name: (await recite(gateway.url, clip(name).pcm())).finals for name in SPOKEN}
    together = await asyncio.gather(*(recite(gateway.url, clip(name).pcm()) for name in names))
    for name, heard in zip(names, together, strict=True):
        check_promises(heard)
        assert heard.finals == alone[name]


async def test_another_language_is_decoded_by_the_other_model(gateway: GatewayProcess) -> None:
    spoken = clip("librivox_sense_0920")
    heard = await recite(gateway.url, spoken.pcm(), start={"language": "auto"})
    assert {final["language"] for final in heard.finals} == {"en"}
    assert spoken.word_error_rate(heard.text) <= 0.3


@pytest.mark.parametrize("kind", ["zeros", "noise", "dc", "hum", "clicks"])
async def test_what_is_no_speech_gives_no_text(gateway: GatewayProcess, kind: str) -> None:
    samples = {
        "zeros": np.zeros(16000 * 12),
        "noise": np.random.default_rng(1).normal(0, 800, 16000 * 12),
        "dc": np.full(16000 * 12, 12000),
        "hum": 3000 * np.sin(2 * np.pi * 50 * np.arange(16000 * 12) / 16000),
        "clicks": np.where(np.arange(16000 * 12) % 16000 < 4, 30000, 0),
    }[kind].astype(np.int16)
    heard = await recite(gateway.url, samples.tobytes())
    assert not heard.finals
    assert not heard.of("partial")
    assert heard.of("ack"), "silence is acknowledged, so that the client may forget it"
    assert heard.messages[-1]["type"] == "done"


async def test_finalize_ends_the_segment_and_is_answered_after_its_final(gateway: GatewayProcess) -> None:
    data = clip("librivox_sense_0920").pcm()
    async with speaking(gateway.url) as speaker:
        await speaker.say(*frames(data[: 2 * 16000 * 3], 3200), {"type": "finalize", "id": "a1"})
        answer = await speaker.next("finalized")
        assert answer == {"type": "finalized", "id": "a1", "audio_offset": 48000}
        assert [message["seq"] for message in speaker.heard.finals] == [0]
        await speaker.say(SILENCE, {"type": "finalize", "id": "a2"})
        assert (await speaker.next("finalized"))["id"] == "a2"
        assert len(speaker.heard.finals) == 1
        await speaker.say({"type": "end"})
        assert (await speaker.listen()).code == 1000


async def test_the_last_word_at_the_end_is_not_lost(gateway: GatewayProcess) -> None:
    spoken = clip("librivox_sense_0880")
    loud = np.flatnonzero(np.abs(spoken.samples) > 600)[-1]
    heard = await recite(gateway.url, spoken.samples[: loud + 800].tobytes())
    assert heard.text.lower().rstrip(".,").endswith("young man")


async def test_a_long_speech_without_a_pause_is_cut_and_nothing_is_lost(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(max_segment_s=8)
    # The pauses are taken out, so that only the length limit can end a segment.
    pieces = [clip(name).samples for name in SPOKEN[1:]] * 2
    joined = np.concatenate([piece[np.abs(piece).cumsum() > 5000] for piece in pieces])
    heard = await recite(gateway.url, joined.tobytes(), start={"endpoint_silence_ms": 3000})
    check_promises(heard)
    spans = [(final["start"], final["end"]) for final in heard.finals]
    assert all(end - start <= 8.1 for start, end in spans)
    assert all(after >= before - 0.001 for (_, before), (after, _) in itertools.pairwise(spans))
    words = " ".join(clip(name).transcript for name in SPOKEN[1:] * 2)
    assert Clip("joined", joined, 16000, words).word_error_rate(heard.text) <= 0.2
