"""The asyncio shell against a real socket: the model server on a port, with faults."""

from __future__ import annotations

import asyncio
import json
import socket as socket_module
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

import starling_client
from starling_client import (
    BackpressureError,
    ConnectError,
    Done,
    Event,
    Final,
    Finalized,
    Partial,
    ProtocolError,
    Reconnected,
    Reconnecting,
    ResumePolicy,
    Session,
    SessionClosedError,
    SessionError,
    SessionLostError,
    SessionStarted,
)
from tests.client.live_server import LiveServer, serving

QUICK = ResumePolicy(backoff_base_s=0.001, backoff_cap_s=0.01, attempt_timeout_s=2.0)
WORDS = [b"\1\0\2\0", b"\0\0\0\0\0\0\0", b"\0\3\0", b"\4\0" + bytes(6), b"\5\0" * 3]
TEXTS = ["en: 1 2", "en: 3 4", "en: 5 5 5"]

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
async def server() -> AsyncIterator[LiveServer]:
    async with serving() as running:
        yield running


def session(server: LiveServer, policy: ResumePolicy = QUICK, **settings: Any) -> Session:
    return starling_client.connect(server.url, policy=policy, **settings)


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Final)]


def kinds(events: list[Event]) -> set[type]:
    return {type(event) for event in events}


async def test_a_stream_gives_typed_events_from_start_to_done(server: LiveServer) -> None:
    async with session(server, session_label="a test", api_key="k1") as live:
        events = [event async for event in live.stream(WORDS)]
    assert isinstance(events[0], SessionStarted)
    assert isinstance(events[-1], Done)
    assert texts(events) == TEXTS
    assert {Partial, Final, starling_client.Ack, starling_client.SpeechStarted} <= kinds(events)
    assert server.requests[0].headers["Authorization"] == "Bearer k1"
    assert json.loads(server.texts[0])["session_label"] == "a test"


async def test_connections_cut_anywhere_change_nothing_in_the_finals(server: LiveServer) -> None:
    def cut(socket: ServerConnection, count: int) -> None:
        if count in (1, 3, 7, 12, 20, 33):
            socket.transport.abort()
            raise ConnectionResetError

    server.on_audio = cut
    policy = ResumePolicy(backoff_base_s=0.001, backoff_cap_s=0.01, max_frame_bytes=3)
    async with session(server, policy) as live:
        events = [event async for event in live.stream(WORDS)]
    assert texts(events) == TEXTS
    assert {Reconnecting, Reconnected} <= kinds(events)
    assert len(server.requests) > 3


@pytest.mark.parametrize(("query", "resumed"), [("", "?resume=s1"), ("?tenant=a%20b", "?tenant=a%20b&resume=s1")])
async def test_a_session_that_goes_on_is_named_before_the_upgrade(server: LiveServer, query: str, resumed: str) -> None:
    def cut(socket: ServerConnection, count: int) -> None:
        if count == 1:
            socket.transport.abort()
            raise ConnectionResetError

    server.on_audio = cut
    async with starling_client.connect(server.url + query, policy=QUICK) as live:
        assert texts([event async for event in live.stream(WORDS)]) == TEXTS
    assert live.info.session_id == "s1"
    assert [request.path for request in server.requests] == [f"/stream{query}", f"/stream{resumed}"]


async def test_a_server_that_forgets_all_but_its_store_changes_nothing(server: LiveServer) -> None:
    def restart(socket: ServerConnection, count: int) -> None:
        if count in (1, 3, 7, 12, 20):
            server.model.restart()
            socket.transport.abort()
            raise ConnectionResetError

    server.on_audio = restart
    policy = ResumePolicy(backoff_base_s=0.001, backoff_cap_s=0.01, max_frame_bytes=5)
    async with session(server, policy) as live:
        assert texts([event async for event in live.stream(WORDS)]) == TEXTS


async def test_a_gateway_that_goes_and_comes_back_on_its_port_is_found_again() -> None:
    async with serving() as first:
        live = session(first)
        await live.__aenter__()
        await live.send(b"\1\0\2\0" + bytes(6) + b"\3\0")
        async for event in live:
            if isinstance(event, Final):
                break
    # The port is taken while nobody listens, so that no other test can get it.
    with socket_module.socket() as holder:
        holder.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", first_port := int(live.url.rsplit(":", 1)[1].split("/")[0])))
        async for event in live:
            if isinstance(event, Reconnecting) and event.attempt > 3:
                break
    second = LiveServer()
    second.model = first.model
    second.model.restart()
    async with serving(first_port, second):
        rest = asyncio.create_task(_collect(live))
        await live.end()
        assert texts(await rest) == ["en: 3"]
        await live.close()


async def _collect(live: Session) -> list[Event]:
    return [event async for event in live]


async def test_a_peer_that_says_nothing_is_given_up_and_the_session_resumed(server: LiveServer) -> None:
    policy = ResumePolicy(backoff_base_s=0.001, dead_after_s=0.2, ping_interval_s=0.05)
    async with session(server, policy) as live:
        await live.send(b"\1\0")
        stuck = next(iter(server.sockets))
        stuck.transport.pause_reading()
        event = await _next(live, Reconnecting)
        assert "nothing heard" in event.cause
        await _next(live, Reconnected)
        stuck.transport.abort()
        assert (await live.end()).segments == 1


async def _next(live: Session, kind: type[Any]) -> Any:
    async for event in live:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


async def test_a_session_that_is_silent_lives_by_its_pings_and_says_so(server: LiveServer) -> None:
    policy = ResumePolicy(dead_after_s=0.3, ping_interval_s=0.05, keepalive_interval_s=0.05)
    async with session(server, policy) as live:
        while server.texts.count('{"type":"keepalive"}') < 8:
            server.heard.clear()
            await server.heard.wait()
        await live.end()
        assert Reconnecting not in kinds(await _collect(live))


@pytest.mark.parametrize("code", [1001, 1011, 1013, 4031, 4104])
async def test_closes_that_the_protocol_lets_resume(server: LiveServer, code: int) -> None:
    async def close(socket: ServerConnection) -> None:
        await socket.close(code)

    server.on_audio = lambda socket, count: asyncio.ensure_future(close(socket)) if count == 2 else None
    async with session(server) as live:
        assert texts([event async for event in live.stream(WORDS)]) == TEXTS
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [1008, 4000, 4004, 4008, 4103])
async def test_closes_that_are_for_good_reach_every_caller(server: LiveServer, code: int) -> None:
    async with session(server) as live:
        await live.send(b"\1\0")
        await next(iter(server.sockets)).close(code, "told you")
        with pytest.raises(SessionError, match="told you") as caught:
            await _collect(live)
        assert caught.value.code == code
        with pytest.raises(SessionError):
            await live.send(b"\1\0")
        with pytest.raises(SessionError):
            await live.end()
    assert len(server.requests) == 1


async def test_a_full_server_is_asked_again_after_the_time_it_asks_for(server: LiveServer) -> None:
    server.refusals.extend([(503, {"Retry-After": "0"}), (503, {})])
    async with session(server) as live:
        assert (await live.end()).segments == 0
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_refusals_raise_on_entering(server: LiveServer, status: int) -> None:
    server.refusals.append((status, {}))
    with pytest.raises(ConnectError) as caught:
        await session(server).__aenter__()
    assert caught.value.status == status


async def test_no_server_is_said_at_once() -> None:
    with socket_module.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{nobody.getsockname()[1]}/stream"
        with pytest.raises(ConnectError, match="no Starling server answers"):
            await starling_client.connect(url).__aenter__()


async def test_a_server_that_stays_away_is_given_up() -> None:
    async with serving() as running:
        live = session(running, ResumePolicy(backoff_base_s=0.01, reconnect_timeout_s=0.2))
        await live.__aenter__()
    with pytest.raises(SessionLostError):
        await _collect(live)
    await live.close()


async def test_send_waits_for_room_and_says_what_is_wrong_when_none_comes(server: LiveServer) -> None:
    policy = ResumePolicy(max_unacknowledged_s=0.01, send_timeout_s=0.2)
    async with session(server, policy) as live:
        await live.send((b"\1\0" + bytes(8)) * 500)
        assert live.acknowledged_samples > 2000
        server.silent = True
        with pytest.raises(BackpressureError, match="iterator"):
            await live.send(bytes(1000))


async def test_finalize_is_answered_after_its_final(server: LiveServer) -> None:
    async with session(server) as live:
        await live.send(b"\1\0\2\0")
        await live.set_language("es")
        identifier = await live.finalize()
        await live.send(b"\3\0")
        await live.end()
        events = [e for e in await _collect(live) if isinstance(e, Final | Finalized)]
    assert [type(e) for e in events] == [Final, Finalized, Final]
    assert events[1] == Finalized(identifier, 2)
    assert texts(list(events)) == ["en: 1 2", "es: 3"]


async def test_an_error_of_the_audio_source_ends_the_stream_and_is_raised(server: LiveServer) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"\1\0"
        raise OSError("the disk is gone")

    async with session(server) as live:
        with pytest.raises(OSError, match="the disk is gone"):
            async for _ in live.stream(source()):
                pass


async def test_a_server_that_speaks_something_else_is_an_error(server: LiveServer) -> None:
    async with session(server) as live:
        await next(iter(server.sockets)).send("hello")
        with pytest.raises(ProtocolError, match="not JSON"):
            await _collect(live)


async def test_leaving_early_closes_the_session(server: LiveServer) -> None:
    async with session(server) as live:
        await live.send(b"\1\0")
    with pytest.raises(SessionClosedError):
        await live.send(b"\1\0")
    with pytest.raises(SessionClosedError):
        await _collect(live)
    assert not server.sockets


async def test_a_reader_that_comes_late_gets_every_final_and_the_newest_partials(server: LiveServer) -> None:
    async with session(server) as live:
        await live.send((b"\1\0" * 9 + bytes(6)) * 100)
        await live.end()
        events = await _collect(live)
    assert len(texts(events)) == 100
    assert len([event for event in events if isinstance(event, Partial)]) < 300


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="ws://HOST"):
        starling_client.connect("http://127.0.0.1:8000/stream")
