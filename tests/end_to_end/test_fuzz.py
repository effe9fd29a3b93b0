"""Random bytes and random legal sequences against a running gateway: it answers as before and keeps nothing of them."""

from __future__ import annotations

import asyncio
import random
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.speaker import Message, Speaker, clip, recite, speaking
from tests.soak.report import setting

pytestmark = pytest.mark.triton

DEADLINE_S = 60.0
AT_ONCE = 8
RATES = (8000, 11025, 16000, 44100, 48000)
WIDTHS = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
LEGAL_CLOSES = {1000, 1002, 1005, 1006, 1007, 1008, 1009, 1013, 4000, 4004, 4008, 4031, 4103, 4104}
"""Every one but 1011: a client's doing is never the server's fault."""

UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FRAGMENTS = (
    *(b"GET ", b"POST ", b"/stream", b"/ws/transcribe/a", b"/ticket", b"/metrics", b" HTTP/1.1", b"\r\n", b"\r\n\r\n"),
    *(b"Host: x", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13", b"Origin: null", b": "),
    *(
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Authorization: Bearer x",
        b"\0",
        b"\xff",
        b" ",
        b"Content-Length: 1",
    ),
    *(b"Sec-WebSocket-Protocol: starling.v1, starling.ticket.x", b"If-None-Match: *", b"\n", b"%00", b"?after=", b"//"),
)


async def raw(gateway: GatewayProcess, dice: random.Random) -> None:
    """Bytes on a socket: none that make sense, pieces of HTTP, or broken frames after a good handshake."""
    kind = dice.randrange(3)
    if kind == 0:
        sent = dice.randbytes(dice.randrange(3000))
    elif kind == 1:
        sent = b"".join(dice.choice(FRAGMENTS) for _ in range(dice.randrange(40)))
    else:
        sent = UPGRADE
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    with suppress(ConnectionError):
        writer.write(sent)
        if kind == 2:
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(dice.randrange(6)):
                writer.write(broken_frame(dice))
                await writer.drain()
        if dice.random() < 0.5:
            writer.write_eof()
            await reader.read()
    writer.transport.abort()


def broken_frame(dice: random.Random) -> bytes:
    """A frame with any opcode, flags, length and mask, more or less whole."""
    payload = dice.randbytes(dice.randrange(300))
    mask = dice.randbytes(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    first = dice.choice((0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, dice.randrange(256)))
    length = len(payload) if dice.random() < 0.8 else dice.randrange(1 << 20)
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, 0xFE, length)
    else:
        head = struct.pack("!BBQ", first, 0xFF, length)
    whole = head + mask + masked
    return whole if dice.random() < 0.8 else whole[: dice.randrange(len(whole) + 1)]


class Player:
    """Plays random sequences of what the protocol allows, and of what it nearly allows."""

    def __init__(self, gateway: GatewayProcess, dice: random.Random, *, strict: bool) -> None:
        self._gateway = gateway
        self._dice = dice
        self._strict = strict
        self._tokens: list[str] = []
        self._speech = clip("librivox_sense_0880").pcm()

    async def play(self) -> None:
        """One connection after the other, most of them resumed."""
        for _ in range(self._dice.randrange(1, 5)):
            try:
                async with speaking(self._gateway.url) as speaker:
                    await self._connection(speaker)
            except InvalidStatus as refused:
                if refused.response.status_code != 503:
                    raise

    async def _connection(self, speaker: Speaker) -> None:
        listening = asyncio.create_task(speaker.listen())
        try:
            with suppress(ConnectionClosed):
                await self._send(speaker)
        finally:
            end = self._dice.randrange(3)  # the third way is to let the server end it: after `end`, or of idleness
            if end == 0:
                speaker.socket.transport.abort()
            elif end == 1:
                await speaker.socket.close(self._dice.choice((1000, 1001, 3000, 4999)))
            heard = await asyncio.wait_for(listening, DEADLINE_S)
            self._tokens += [message["token"] for message in heard.of("session")]
            assert heard.code in LEGAL_CLOSES | {1001, 3000, 4999}, (heard.code, heard.reason)
            if self._strict:
                fatal = [error for error in heard.of("error") if not error["recoverable"]]
                assert {error["code"] for error in fatal} <= {4004, 4008, 4031, 4103, 1013}, fatal
            seqs = [final["seq"] for final in heard.finals]
            assert seqs == sorted(set(seqs))

    async def _send(self, speaker: Speaker) -> None:
        dice = self._dice
        first: Message | bytes | str = self._first()
        await speaker.say(first)
        for _ in range(dice.randrange(12)):
            await speaker.say(self._next())
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() / 20)
        if dice.random() < 0.7:
            await speaker.say({"type": "end"})
        elif dice.random() < 0.5 and not self._strict:
            await speaker.say(*[{"type": "keepalive"}] * 100)

    def _first(self) -> Message | bytes:
        dice = self._dice
        if self._tokens and dice.random() < 0.6:
            offset = dice.choice((0, dice.randrange(100_000), 10**9, 2**53))
            return {
                "type": "resume",
                "token": dice.choice(self._tokens),
                "last_seq": dice.choice((-1, 0, 1, 10**6)),
                "from_offset": offset,
            }
        if dice.random() < 0.2:
            return self._audio()
        start: Message = {"type": "start"}
        optional: dict[str, Callable[[], Any]] = {
            "language": lambda: dice.choice(("en", "fr", "auto", "EN-us", "tlh")),
            "encoding": lambda: dice.choice(tuple(WIDTHS)),
            "sample_rate": lambda: dice.choice(RATES),
            "partials": lambda: dice.random() < 0.5,
            "punctuate": lambda: dice.random() < 0.5,
            "endpoint_silence_ms": lambda: dice.choice((200, 500, 3000, 5)),
            "session_label": lambda: "label \u202e\0" * dice.randrange(30),
            "more": lambda: [1, {"a": None}],
        }
        for name, value in optional.items():
            if dice.random() < 0.4:
                start[name] = value()
        return start

    def _next(self) -> Message | bytes | str:
        dice = self._dice
        draw = dice.random()
        if draw < 0.5:
            return self._audio()
        if draw < 0.65:
            return {"type": "finalize", "id": str(dice.randrange(10))}
        if draw < 0.75:
            return {"language": dice.choice(("en", "es", "auto", "xx"))}
        if draw < 0.85 or self._strict:
            return {"type": "keepalive"}
        return dice.choice(
            (
                "",
                "{",
                "[" * 5000,
                '{"type":' + "[" * 300 + "]" * 300 + "}",
                '{"type": "finalize", "id": "\\ud800"}',
                '{"type": 1e999}',
                {"type": "start"},
                {"type": "finalize", "id": "x" * 500},
                bytes(300_000),
                {"type": dice.choice(("", "done", "session"))},
            )
        )

    def _audio(self) -> bytes:
        dice = self._dice
        size = dice.randrange(20_000)
        at = dice.randrange(len(self._speech))
        return dice.choice((self._speech[at : at + size], bytes(size), dice.randbytes(size), b"", b"\xff" * size))


def open_files(process: psutil.Process) -> int:
    """Of a process, without databases, whose pool opens more as they are needed, up to its size."""
    names = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names.append(str(link.readlink()))
    return sum(".sqlite" not in name for name in names)


async def check_unharmed(gateway: GatewayProcess, before: list[Message], process: psutil.Process, files: int) -> None:
    """All that was opened is gone, nothing failed inside, and speech is understood as it was."""
    for gauge in ('starling_connections{protocol="stream"}', "starling_sessions"):
        await asyncio.to_thread(gateway.wait_metric, gauge, 0, 90)
    metrics = gateway.get("/metrics")[2].decode()
    assert not re.findall(r"^starling_faults_total\S* [^0].*", metrics, re.MULTILINE)
    for gauge in ("starling_inference_in_flight", "starling_inference_waiting"):
        assert not re.findall(rf"^{gauge}{{\S* [^0].*", metrics, re.MULTILINE)
    assert "Traceback" not in gateway.log
    assert '"exception"' not in gateway.log
    assert "never awaited" not in gateway.log
    assert "never retrieved" not in gateway.log
    after = await recite(gateway.url, clip("jfk").pcm())
    assert after.finals == before
    assert gateway.pid == process.pid
    async with asyncio.timeout(30):
        # The last sockets close a moment later than their gauges say.
        while open_files(process) > files:
            await asyncio.sleep(0.1)


async def storm(make_gateway: MakeGateway, seed: int, players: int) -> None:
    """So many players of each kind, a few at a time."""
    gateway = make_gateway(resume_window_s=1, idle_timeout_s=3, max_sessions=50)
    before = (await recite(gateway.url, clip("jfk").pcm())).finals
    process = psutil.Process(gateway.pid)
    files = open_files(process)
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        dice = random.Random(f"{seed}/{number}")
        async with room, asyncio.timeout(2 * DEADLINE_S):
            if number % 3 == 0:
                await raw(gateway, dice)
            else:
                await Player(gateway, dice, strict=number % 3 == 1).play()

    outcomes = await asyncio.gather(*(one(number) for number in range(3 * players)), return_exceptions=True)
    failed = {number: outcome for number, outcome in enumerate(outcomes) if outcome is not None}
    assert not failed, f"seed {seed}: {failed}"
    await check_unharmed(gateway, before, process, files)


async def test_random_clients_leave_nothing_behind(make_gateway: MakeGateway) -> None:
    await storm(make_gateway, seed=1, players=20)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 7))
async def test_many_random_clients_leave_nothing_behind(make_gateway: MakeGateway, seed: int) -> None:
    await storm(make_gateway, seed, players=setting("PLAYERS", 150))
