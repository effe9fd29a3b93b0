"""The client without asyncio: the same session, driven by an event loop in a thread of its own.

with starling_client.sync.connect("ws://127.0.0.1:8000/stream", sample_rate=16000) as session:
    for event in session.stream(chunks):
        ...

Methods may be called from any thread; one thread sends while another iterates.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import starling_client
from starling_client.events import Done, Event, SessionStarted
from starling_client.session import Session

T = TypeVar("T")


class SyncSession:
    """A blocking `Session`. Errors are those of the asyncio one."""

    def __init__(self, session: Session) -> None:
        """Wrap a session that is not open yet; entering the context opens it."""
        self._session = session
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Open the session. Raises ConnectError where the server cannot be reached or refuses."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="starling-client", daemon=True)
        self._thread.start()
        try:
            self._call(self._session.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session and its thread."""
        try:
            self._call(self._session.close())
        finally:
            self._stop()

    def __iter__(self) -> Iterator[Event]:
        """Return the session, which is its own iterator of events."""
        return self

    def __next__(self) -> Event:
        """Wait for the next event; stop after `Done`. Raises what ended the session if that was an error."""
        event = self._call(self._next())
        if event is None:
            raise StopIteration
        return event

    @property
    def info(self) -> SessionStarted:
        """What the server said when it opened or last resumed the session."""
        return self._session.info

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send audio; see `Session.send`."""
        self._call(self._session.send(data))

    def finalize(self, identifier: str | None = None) -> str:
        """End the open segment now; see `Session.finalize`."""
        return self._call(self._session.finalize(identifier))

    def set_language(self, code: str) -> None:
        """Change the language from the next segment on."""
        self._call(self._session.set_language(code))

    def end(self) -> Done:
        """Say that no more audio comes and wait until every final is here."""
        return self._call(self._session.end())

    def stream(self, audio: Iterable[bytes]) -> Iterator[Event]:
        """Send all of `audio` from a thread of its own, end the session and yield its events until `Done`."""
        failure: list[BaseException] = []

        def feed() -> None:
            try:
                for chunk in audio:
                    self.send(chunk)
                self.end()
            except BaseException as error:
                failure.append(error)
                self._call(self._session.stop_iteration())

        feeder = threading.Thread(target=feed, name="starling-feeder", daemon=True)
        feeder.start()
        yield from self
        feeder.join()
        if failure:
            raise failure[0]

    async def _next(self) -> Event | None:
        # StopAsyncIteration cannot travel through a future.
        return await anext(self._session, None)

    def _call(self, job: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            job.close()
            raise starling_client.SessionClosedError("the session is not open: use it in a with block")
        future = asyncio.run_coroutine_threadsafe(job, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        loop, thread, self._loop = self._loop, self._thread, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def connect(url: str, **settings: Any) -> SyncSession:
    """Return a blocking session at `url`, to be entered with `with`; takes what `starling_client.connect` takes."""
    return SyncSession(starling_client.connect(url, **settings))
