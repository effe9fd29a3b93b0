"""Who gets in, who is sent away, and what nobody gets to see: against a gateway as it runs in production."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from launcher.paths import SOURCE_ROOT
from launcher.triton import TritonProcess
from server.keys import add_key, revoke_key
from session_store.factory import sqlite_url
from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.speaker import Heard, Message, Speaker, clip, frames, speaking
from tests.server.certificates import Authority

pytestmark = pytest.mark.triton

START: Message = {"type": "start"}
END: Message = {"type": "end"}
SPOKEN = "librivox_sense_0880"


def with_key(text: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {text}"}}


def with_ticket(text: str) -> dict[str, Any]:
    return {"subprotocols": ["starling.v1", f"starling.ticket.{text}"]}


async def status(url: str, **options: Any) -> tuple[int, dict[str, str], str]:
    """What an upgrade is refused with."""
    with pytest.raises(InvalidStatus) as refused:
        async with speaking(url, **options):
            pass
    response = refused.value.response
    return response.status_code, {k.lower(): v for k, v in response.headers.raw_items()}, response.body.decode()


async def send_and_listen(url: str, *sent: bytes | str | Message, **options: Any) -> Heard:
    async with speaking(url, **options) as speaker:
        with suppress(ConnectionClosed):
            await speaker.say(*sent)
        return await speaker.listen()


async def ticket(gateway: GatewayProcess, text: str) -> str:
    code, _, body = await asyncio.to_thread(gateway.get, "/ticket", {"Authorization": f"Bearer {text}"})
    assert code == 200
    return str(json.loads(body)["ticket"])


def check_log(gateway: GatewayProcess) -> None:
    """Nothing went wrong that should not."""
    assert "Traceback" not in gateway.log
    assert '"exception"' not in gateway.log
    assert not re.findall(r"^starling_faults_total\S* [^0]", gateway.get("/metrics")[2].decode(), re.MULTILINE)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@dataclass(frozen=True)
class Pair:
    """Two gateways that share keys and stores; every test makes keys of its own."""

    one: GatewayProcess
    other: GatewayProcess
    keys_file: Path

    def __iter__(self) -> Iterator[GatewayProcess]:
        return iter((self.one, self.other))

    async def key(self, name: str, **limits: Any) -> str:
        """The text of a new key that both know."""
        _, text = add_key(self.keys_file, name, **limits)
        for gateway in self:
            await became_known(gateway, text)
        return text


@pytest.fixture(scope="module")
def pair(triton: TritonProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    keys_file = folder / "keys.json"
    add_key(keys_file, "to begin with")
    shared = {
        "keys_file": str(keys_file),
        "session_store": sqlite_url(folder / "sessions.sqlite"),
        "transcript_store": sqlite_url(folder / "transcripts.sqlite"),
    }
    one, other = (GatewayProcess(folder / name, [triton.options.grpc_url], **shared) for name in ("one", "other"))
    try:
        yield Pair(one.start(), other.start(), keys_file)
    finally:
        one.close()
        other.close()


# Starting


def test_it_does_not_start_where_others_reach_it_without_keys(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
    environment = {
        **kept,
        "STARLING_HOST": "0.0.0.0",
        "STARLING_STATE_DIR": str(tmp_path),
        "STARLING_TRITON_ADDRESSES": '["127.0.0.1:9"]',
        "PYTHONPATH": str(SOURCE_ROOT),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "server"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    for named in ("starling keys add", "STARLING_KEYS_FILE", "STARLING_ALLOW_NO_KEYS"):
        assert named in ended.stderr
    assert ended.stderr.count("\n") == 1


# Keys and tickets


async def test_only_who_has_a_key_gets_in(make_gateway: MakeGateway, keys_file: Path) -> None:
    key, text = add_key(keys_file, "phone")
    gateway = make_gateway(keys_file=str(keys_file))
    for options in ({}, with_key("sk_00000000_wrong"), with_key(text[:-1]), with_ticket("x"), with_ticket(text)):
        code, headers, body = await status(gateway.url, **options)
        assert code == 401
        assert headers["www-authenticate"].startswith('Bearer realm="starling"')
        assert "key" in body
    assert (await status(f"{gateway.url}?key={text}"))[0] == 401
    assert (await status(gateway.url.replace("/stream", "/ws/transcribe/call")))[0] == 401
    foreign = await status(gateway.url, **with_key(text), origin="https://elsewhere.example")
    assert foreign[0] == 403
    heard = await send_and_listen(gateway.url, *frames(clip(SPOKEN).pcm(), 6400), END, **with_key(text))
    assert heard.code == 1000
    assert heard.finals
    # A browser that was refused asks with plain HTTP whether anybody is there.
    assert gateway.get("/stream")[0] == 426
    assert key.id not in gateway.get("/metrics")[2].decode()
    check_log(gateway)


async def test_a_ticket_opens_one_connection_at_any_gateway(pair: Pair) -> None:
    one, other = pair
    text = await pair.key("page")
    opener = await ticket(one, text)
    async with speaking(other.url, **with_ticket(opener)) as speaker:
        assert speaker.socket.subprotocol == "starling.v1"
        await speaker.say(START)
        session = await speaker.next("session")
        for gateway in pair:
            assert (await status(gateway.url, **with_ticket(opener)))[0] == 401
        speaker.socket.transport.abort()
    # It resumes with another ticket of the same key, as a browser does.
    async with speaking(one.url, **with_ticket(await ticket(other, text))) as speaker:
        await speaker.say({"type": "resume", "token": session["token"], "last_seq": -1, "from_offset": 0})
        assert (await speaker.next("session"))["resumed"] is True
        await speaker.say(END)
        assert (await speaker.listen()).code == 1000


def test_tickets_are_given_to_keys_alone(make_gateway: MakeGateway, keys_file: Path) -> None:
    _, text = add_key(keys_file, "page")
    gateway = make_gateway(keys_file=str(keys_file))
    code, headers, _ = gateway.get("/ticket")
    assert code == 401
    assert headers["www-authenticate"].startswith("Bearer")
    authorized = {"Authorization": f"Bearer {text}"}
    assert gateway.get("/ticket", {**authorized, "Origin": "https://elsewhere.example"})[0] == 403
    code, headers, body = gateway.get("/ticket", authorized)
    assert code == 200
    assert headers["cache-control"] == "no-store"
    assert json.loads(body)["expires_in_s"] == 30
    assert request(gateway, b"POST /ticket HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").startswith(
        b"HTTP/1.1 405"
    )


async def test_tokens_and_ids_of_one_key_are_of_no_use_to_another(pair: Pair) -> None:
    one, other = pair
    mine, theirs = await pair.key("mine"), await pair.key("theirs")
    data = clip(SPOKEN).pcm()
    call = "/ws/transcribe/call-1?after=-1"
    async with speaking(one.url, **with_key(mine)) as owner:
        await owner.say(START)
        token = (await owner.next("session"))["token"]
        async with speaking(one.url.replace("/stream", call), **with_key(mine)) as caller:
            resume = {"type": "resume", "token": token, "last_seq": -1, "from_offset": 0}
            for gateway in pair:
                heard = await send_and_listen(gateway.url, resume, **with_key(theirs))
                assert heard.code == 4004
                assert [message["type"] for message in heard.messages] == ["error"]
                heard = await send_and_listen(gateway.url.replace("/stream", call), **with_key(theirs))
                assert heard.code == 4004
                assert heard.messages == []
            # The owners noticed nothing.
            await caller.say(bytes(160))
        await owner.say(*frames(data, 6400), END)
        heard = await owner.listen()
    assert heard.code == 1000
    assert clip(SPOKEN).word_error_rate(heard.text) <= 0.2
    assert (await send_and_listen(other.url, resume, **with_key(theirs))).code == 4004


async def test_a_revoked_key_is_sent_away_and_the_others_stay(make_gateway: MakeGateway, keys_file: Path) -> None:
    bad, bad_text = add_key(keys_file, "bad")
    _, good_text = add_key(keys_file, "good")
    gateway = make_gateway(keys_file=str(keys_file), resume_window_s=1)
    async with (
        speaking(gateway.url, **with_key(bad_text)) as talking,
        speaking(gateway.url, **with_key(bad_text)) as silent,
        speaking(gateway.url, **with_key(good_text)) as good,
    ):
        await talking.say(START, *frames(clip(SPOKEN).pcm(), 6400))
        await talking.next("partial")
        await good.say(START)
        await good.next("session")
        revoke_key(keys_file, bad.id)
        for speaker in (talking, silent):
            heard = await speaker.listen()
            assert heard.code == 1008
            error = heard.messages[-1]
            assert (error["type"], error["code"], error["recoverable"]) == ("error", 1008, False)
            assert "revoked" in error["message"]
        assert (await status(gateway.url, **with_key(bad_text)))[0] == 401
        # A new key needs no restart.
        _, new_text = add_key(keys_file, "new")
        await became_known(gateway, new_text)
        await good.say(*frames(clip(SPOKEN).pcm(), 6400), END)
        assert (await good.listen()).code == 1000
    # What the revoked key had said is not lost to who runs the server.
    await asyncio.to_thread(gateway.wait_metric, "starling_sessions", 0, 90)
    check_log(gateway)


async def test_a_broken_keys_file_changes_nothing(make_gateway: MakeGateway, keys_file: Path) -> None:
    _, text = add_key(keys_file, "phone")
    gateway = make_gateway(keys_file=str(keys_file))
    keys_file.write_text('{"keys": "' + text)
    async with asyncio.timeout(20):
        while "keys file not taken over" not in gateway.log:
            await asyncio.sleep(0.05)
    heard = await send_and_listen(gateway.url, START, END, **with_key(text))
    assert heard.code == 1000
    assert text not in gateway.log


async def became_known(gateway: GatewayProcess, text: str) -> None:
    """Waits until a gateway has read the keys file again."""
    async with asyncio.timeout(60):
        while True:
            with suppress(TimeoutError):  # of one request, where the machine is busy
                if (await asyncio.to_thread(gateway.get, "/ticket", {"Authorization": f"Bearer {text}"}))[0] == 200:
                    return
            await asyncio.sleep(0.05)


# Limits of a key


async def test_a_key_has_so_many_sessions_over_all_gateways(pair: Pair) -> None:
    one, other = pair
    text = await pair.key("phone", sessions=2)
    async with speaking(one.url, **with_key(text)) as first, speaking(other.url, **with_key(text)) as second:
        for speaker in (first, second):
            await speaker.say(START)
            token = (await speaker.next("session"))["token"]
        for gateway in pair:
            heard = await send_and_listen(gateway.url, START, **with_key(text))
            assert heard.code == 1008
            assert heard.messages[-1]["code"] == 1008
            assert "2 sessions" in heard.messages[-1]["message"]
        # To resume takes no further session, not even before the server knows that the old connection is dead.
        async with speaking(one.url, **with_key(text)) as again:
            await again.say({"type": "resume", "token": token, "last_seq": -1, "from_offset": 0})
            assert (await again.next("session"))["resumed"] is True
            await again.say(END)
            assert (await again.listen()).code == 1000
        assert (await send_and_listen(other.url, START, END, **with_key(text))).code == 1000
        await first.say(END)
        assert (await first.listen()).code == 1000


async def test_a_key_cannot_take_all_connections(make_gateway: MakeGateway, keys_file: Path) -> None:
    _, text = add_key(keys_file, "phone", sessions=1)
    _, other = add_key(keys_file, "other")
    gateway = make_gateway(keys_file=str(keys_file))
    sockets = [await connect(gateway.url, **with_key(text)) for _ in range(6)]
    code, headers, _ = await status(gateway.url, **with_key(text))
    assert code == 503
    assert int(headers["retry-after"]) > 0
    assert (await send_and_listen(gateway.url, START, END, **with_key(other))).code == 1000
    await asyncio.gather(*(opened.close() for opened in sockets))


async def test_a_key_has_so_much_audio_a_day_over_all_gateways(pair: Pair) -> None:
    one, other = pair
    text, free = await pair.key("phone", hours_per_day=6 / 3600), await pair.key("free")
    second = bytes(32000)
    heard = await send_and_listen(one.url, *[second] * 5, END, **with_key(text))
    assert heard.code == 1000
    async with speaking(one.url, **with_key(text)) as speaker:
        await speaker.say(START)
        token = (await speaker.next("session"))["token"]
        with suppress(ConnectionClosed):
            await speaker.say(*[second] * 3)
        heard = await speaker.listen()
    assert heard.code == 1008
    assert heard.messages[-1]["code"] == 1008
    assert "UTC" in heard.messages[-1]["message"]
    resume = {"type": "resume", "token": token, "last_seq": -1, "from_offset": 0}
    assert (await send_and_listen(one.url, resume, **with_key(text))).code == 1008
    async with asyncio.timeout(30):
        while (await send_and_listen(other.url, START, END, **with_key(text))).code != 1008:
            await asyncio.sleep(0.1)
    assert (await send_and_listen(one.url, second, END, **with_key(free))).code == 1000


async def test_the_longest_connection_time_passes(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(max_session_s=1)
    heard = await send_and_listen(gateway.url, START)
    assert heard.code == 1001
    resume = {"type": "resume", "token": heard.messages[0]["token"], "last_seq": -1, "from_offset": 0}
    async with speaking(gateway.url) as speaker:
        await speaker.say(resume)
        assert (await speaker.next("session"))["resumed"] is True


# TLS


class TlsGateway(GatewayProcess):
    """Spoken to with TLS."""

    client: ssl.SSLContext

    @property
    def url(self) -> str:
        return f"wss://127.0.0.1:{self.port}/stream"

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.client)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def tls_gateway(triton: TritonProcess, tmp_path: Path, authority: Authority) -> Iterator[TlsGateway]:
    put_certificate(tmp_path, authority)
    process = TlsGateway(
        tmp_path / "tls",
        [triton.options.grpc_url],
        tls_certificate=str(tmp_path / "cert.pem"),
        tls_key=str(tmp_path / "key.pem"),
    )
    process.client = authority.client_context()
    try:
        process.start()
        yield process
    finally:
        process.close()


def put_certificate(folder: Path, authority: Authority) -> int:
    certificate = authority.issue()
    (folder / "cert.pem").write_bytes(certificate.chain)
    (folder / "key.pem").write_bytes(certificate.key)
    return certificate.serial


def shown_serial(gateway: TlsGateway) -> int:
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as plain,
        gateway.client.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        shown: Any = secure.getpeercert()
    return int(shown["serialNumber"], 16)


async def test_speech_over_tls_with_a_certificate_that_changes(
    tls_gateway: TlsGateway, authority: Authority, tmp_path: Path
) -> None:
    data = clip(SPOKEN).pcm()
    async with speaking(tls_gateway.url, ssl=tls_gateway.client) as speaker:
        await speaker.say(START, *frames(data[: len(data) // 2], 6400))
        await speaker.next("session")
        serial = put_certificate(tmp_path, authority)
        async with asyncio.timeout(30):
            while await asyncio.to_thread(shown_serial, tls_gateway) != serial:
                await asyncio.sleep(0.1)
        # The connection that was there goes on.
        await speaker.say(*frames(data[len(data) // 2 :], 6400), END)
        heard = await speaker.listen()
    assert heard.code == 1000
    assert clip(SPOKEN).word_error_rate(heard.text) <= 0.2
    assert tls_gateway.get("/healthz")[1]["strict-transport-security"].startswith("max-age=")
    check_log(tls_gateway)


def test_who_does_not_speak_tls_is_cut_off_without_a_trace(tls_gateway: TlsGateway) -> None:
    for sent in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
        b"",
    ):
        with socket.create_connection(("127.0.0.1", tls_gateway.port), timeout=20) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while plain.recv(4096):
                    pass
    strangers = ssl.create_default_context()
    for _ in range(3):
        with (
            socket.create_connection(("127.0.0.1", tls_gateway.port), timeout=20) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            strangers.wrap_socket(plain, server_hostname="127.0.0.1")
    check_log(tls_gateway)
    assert "SSL" not in tls_gateway.log


# Nothing secret anywhere


@pytest.mark.parametrize("logged", [False, True], ids=["by default", "transcripts asked for"])
async def test_nothing_secret_is_seen(make_gateway: MakeGateway, keys_file: Path, logged: bool) -> None:
    key, text = add_key(keys_file, "phone", sessions=20, hours_per_day=1)
    gateway = make_gateway(
        keys_file=str(keys_file), log_transcripts=logged, log_level="debug", resume_window_s=10, max_frame_bytes=100_000
    )
    data = clip("librivox_sense_0870").pcm()
    secrets = {text, text.split("_", 2)[2], key.sha256}
    answers: list[str] = []

    async def one() -> Speaker:
        opener = await ticket(gateway, text)
        secrets.add(opener)
        answers.append((await status(f"{gateway.url}?key={text}&ticket={opener}"))[2])
        async with speaking(gateway.url, **with_ticket(opener)) as speaker:
            await speaker.say({"type": "start", "session_label": "a patient"}, *frames(data, 6400))
            token = (await speaker.next("session"))["token"]
            secrets.update({token, token.partition(".")[2]})
            await speaker.next("partial")
            speaker.socket.transport.abort()
        answers.append((await status(gateway.url, **with_ticket(opener)))[2])
        answers.append((await status(gateway.url, **with_key(f"{text}x")))[2])
        resume = {"type": "resume", "token": token, "last_seq": -1, "from_offset": 0}
        for sent in (token, {**resume, "token": f"{token}x"}, {**resume, "token": token, "last_seq": token}):
            heard = await send_and_listen(gateway.url, sent, **with_key(text))
            answers.append(heard.reason)
        async with speaking(gateway.url, **with_key(text)) as speaker:
            await speaker.say(resume, *frames(data, 6400), END)
            await speaker.listen()
        await send_and_listen(gateway.url, START, *frames(data, 6400), bytes(100_001), **with_key(text))
        call = f"/ws/transcribe/call-{token.partition('.')[0]}"
        async with speaking(gateway.url.replace("/stream", call), **with_key(text)) as caller:
            await caller.say(*frames(data, 160), "no audio", text)
            caller.socket.transport.abort()
        return speaker

    spoken = await asyncio.gather(*(one() for _ in range(3)))
    assert all(speaker.heard.code == 1000 for speaker in spoken)
    revoke_key(keys_file, key.id)
    await asyncio.to_thread(gateway.wait_metric, "starling_sessions", 0, 90)
    pages = [gateway.get(path)[2].decode() for path in ("/metrics", "/readyz", "/healthz", "/ticket", "/stream")]
    gateway.terminate()
    for place in (gateway.log, *pages, *answers):
        for secret in secrets:
            assert secret not in place
    finals = {final["text"] for speaker in spoken for final in speaker.heard.finals}
    assert finals
    words = {word for final in finals for word in re.findall(r"[A-Za-z]{7,}", final)}
    assert words
    assert [final in gateway.log for final in finals] == [logged] * len(finals)
    for place in (*pages, *answers, *(() if logged else (gateway.log,))):
        assert not [word for word in words if re.search(rf"\b{word}\b", place)]
    assert "a patient" not in gateway.log


# HTTP


def request(gateway: GatewayProcess, raw: bytes, timeout: float = 30) -> bytes:
    """Sends bytes and takes all that comes."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=timeout) as plain:
        answer = b""
        with suppress(ConnectionError):
            plain.sendall(raw)
            while part := plain.recv(65536):
                answer += part
        return answer


def test_answers_tell_browsers_to_be_careful(gateway: GatewayProcess) -> None:
    for path in ("/", "/healthz", "/readyz", "/metrics", "/nowhere", "/stream", "/ws/transcribe/%20", "/ticket"):
        headers = gateway.get(path)[1]
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] == "no-referrer", path
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert headers["server"] == "starling", path
        assert "strict-transport-security" not in headers, path


UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        pytest.param(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 414", id="long path"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"HTTP/1.1 431", id="long header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 1000 + b"\r\n", b"HTTP/1.1 431", id="many headers"),
        pytest.param(UPGRADE + b"Origin: http://x\r\nOrigin: http://y\r\n\r\n", b"HTTP/1.1 403", id="two origins"),
        pytest.param(UPGRADE + b"Origin: null\r\n\r\n", b"HTTP/1.1 403", id="no origin"),
        pytest.param(UPGRADE.replace(b"13", b"7") + b"\r\n", b"HTTP/1.1 4", id="old version"),
        pytest.param(UPGRADE.replace(b"Sec-WebSocket-Key", b"X") + b"\r\n", b"HTTP/1.1 4", id="no nonce"),
        pytest.param(UPGRADE + b"Sec-WebSocket-Key: x\r\n\r\n", b"HTTP/1.1 4", id="two nonces"),
        pytest.param(UPGRADE + b"Sec-WebSocket-Protocol: ,;\xff\r\n\r\n", b"HTTP/1.1 4", id="broken offers"),
        pytest.param(UPGRADE.replace(b"GET", b"POST") + b"\r\n", b"HTTP/1.1 4", id="wrong method"),
        pytest.param(b"GET / HTTP/2.0\r\n\r\n", b"", id="wrong version"),
        pytest.param(b"\x00\xff\n\n\n", b"", id="bytes"),
        pytest.param(b"GET /\xff HTTP/1.1\r\n\r\n", b"", id="no ASCII"),
        pytest.param(b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"", id="a body"),
        pytest.param(b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", id="chunks"),
        pytest.param(b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 404", id="another folder"),
        pytest.param(b"GET /%2e%2e/server/auth.py HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 404", id="in disguise"),
        pytest.param(b"GET http://x/stream HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 404", id="whole address"),
    ],
)
def test_what_is_no_good_request_gets_a_short_answer_and_no_traceback(
    gateway: GatewayProcess, raw: bytes, answer: bytes
) -> None:
    got = request(gateway, raw)
    assert got.startswith(answer) if answer else not got
    assert len(got) < 3000
    check_log(gateway)


async def test_who_takes_their_time_with_the_handshake_is_cut_off(gateway: GatewayProcess) -> None:
    async def drip(first: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(first)
        try:
            async with asyncio.timeout(60):
                while not reader.at_eof():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            return await reader.read()
                    writer.write(b"X")
        except ConnectionError:
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        return b""

    answers = await asyncio.gather(*(drip(first) for first in (b"", b"GET /stre", UPGRADE, UPGRADE[:-2]) * 5))
    assert answers == [b""] * 20
    check_log(gateway)


async def test_text_that_is_not_utf_8_closes_with_1007(gateway: GatewayProcess) -> None:
    for sent in ([], [START]):
        async with speaking(gateway.url) as speaker:
            await speaker.say(*sent)
            await speaker.socket.send(b'{"type": "\xff\xfe"}', text=True)
            assert (await speaker.listen()).code == 1007
    check_log(gateway)


async def test_broken_frames_close_with_1002(gateway: GatewayProcess) -> None:
    # Reserved bits, an unknown opcode, a frame without mask, a long ping, a close with one byte.
    for frame in (
        b"\xf1\x80\0\0\0\0",
        b"\x83\x80\0\0\0\0",
        b"\x81\x01a",
        b"\x89\xfe\x00\x7e\0\0\0\0" + bytes(126),
        b"\x88\x81\0\0\0\0a",
    ):
        async with speaking(gateway.url) as speaker:
            speaker.socket.transport.write(frame)
            assert (await speaker.listen()).code == 1002
    check_log(gateway)
