from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from starling_client import ConnectError, Done, Final, ResumePolicy, SessionClosedError, SessionStarted, sync
from tests.client.live_server import LiveServer, serving
from tests.client.test_session import QUICK, TEXTS, WORDS

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def server() -> Iterator[LiveServer]:
    """The live server in a thread with a loop of its own, as a blocking program would meet it."""
    running: list[LiveServer] = []
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with serving() as live:
            running.append(live)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(10)
    yield running[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def test_a_blocking_stream_gives_the_same_events(server: LiveServer) -> None:
    with sync.connect(server.url, policy=QUICK) as session:
        events = list(session.stream(WORDS))
    assert isinstance(events[0], SessionStarted)
    assert isinstance(events[-1], Done)
    assert [event.text for event in events if isinstance(event, Final)] == TEXTS


def test_one_thread_sends_while_another_reads(server: LiveServer) -> None:
    with sync.connect(server.url, policy=QUICK) as session:
        texts: list[str] = []
        reader = threading.Thread(target=lambda: texts.extend(e.text for e in session if isinstance(e, Final)))
        reader.start()
        session.send(WORDS[0])
        session.set_language("es")
        session.finalize()
        session.send(b"\3\0")
        assert session.end().segments == 2
        reader.join()
        assert session.info.session_id == "s1"
    assert texts == ["en: 1 2", "es: 3"]


def test_an_error_of_the_source_is_raised(server: LiveServer) -> None:
    def source() -> Iterator[bytes]:
        yield WORDS[0]
        raise OSError("the disk is gone")

    with sync.connect(server.url, policy=QUICK) as session, pytest.raises(OSError, match="the disk is gone"):
        list(session.stream(source()))


def test_a_refusal_is_raised_and_leaves_no_thread(server: LiveServer) -> None:
    server.refusals.append((401, {}))
    with pytest.raises(ConnectError), sync.connect(server.url, policy=ResumePolicy()):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "starling-client"]


def test_a_session_that_is_not_open_says_so() -> None:
    with pytest.raises(SessionClosedError, match="with block"):
        sync.connect("ws://127.0.0.1:1/stream").send(b"")
