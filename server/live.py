"""A session at work: carries out the core's commands and brings it the answers.

It outlives its connections. While none is attached, decodes go on and finals are stored; a new connection may attach
until the resume window has passed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from server import tracing
from server.audio.vad import Result, VadOverloadedError, VadState
from server.keeping import Keeper
from server.outbox import Outbox
from server.parts import Parts
from server.protocol.close import CloseCode, Closing
from server.session.commands import (
    Cancel,
    Command,
    Decode,
    DetectVoice,
    DropPartial,
    Finish,
    Punctuate,
    Send,
    Store,
    WantPartial,
)
from server.session.controls import TooManyMarksError
from server.session.messages import Done, Error, Partial, SpeechStarted
from server.session.segment import Hypothesis
from server.session.session import Session
from server.session.settings import RATE, VAD_WINDOW
from session_store.base import Final, PartialFeed, StaleOwnerError, StoreError

log = structlog.get_logger(__name__)

TAKEN_OVER = "another connection has taken the session over"


class LiveSession:
    """One session with all that is under way for it."""

    def __init__(self, session: Session, session_id: str, fence: int, parts: Parts, ownership: asyncio.Lock) -> None:
        self.session_id = session_id
        self.outbox: Outbox | None = None
        self.is_over = False
        """Ended, failed or taken over: nothing more will come of it."""
        self.is_finished = False
        """The audio has ended and all of it is stored; the client may still ask for what it missed."""
        self.is_concluding = False
        """The live state is being deleted."""
        self._is_left = False
        """Nobody will ask for what comes of the session."""
        self.on_over: Callable[[LiveSession], None] = lambda live: None
        self.finals = 0
        self.keeper = Keeper(session, session_id, fence, parts, ownership)
        self._session = session
        self._held: list[bytes] = []
        """Frames that are shorter than a window of voice activity, until together they make one."""
        self._held_bytes = 0
        self._held_since = 0.0
        self._window_bytes = session.settings.bytes_per_second * VAD_WINDOW // RATE
        self._parts = parts
        self._is_followed = isinstance(parts.sessions, PartialFeed)
        self._traced = tracing.follow(self, session_id)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stores: deque[Store | Finish] = deque()
        self._storing: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._done: Done | None = None
        self._moved = asyncio.Event()
        """Set whenever something has happened."""

    @property
    def session(self) -> Session:
        """The core, with all audio in it that is here."""
        self._hear()
        return self._session

    # --- what a connection does

    @property
    def language(self) -> str:
        """For ranking in the scheduler: the language of the open speech."""
        return self._session.language

    def attach(self, outbox: Outbox) -> None:
        """Sends to this connection from now on; an older one is closed."""
        if self.outbox is not None:
            self.outbox.close(Closing(CloseCode.TAKEN_OVER, TAKEN_OVER))
        self.outbox = outbox
        self._is_left = False

    def detach(self, outbox: Outbox) -> bool:
        """The connection is gone; false where it had been replaced already."""
        if self.outbox is not outbox:
            return False
        self.outbox = None
        self._room.set()
        return True

    def audio(self, data: bytes) -> None:
        """Takes one frame. Of short ones several go to the core together, about a window of voice activity at a time:
        fewer do not make it any wiser, and each time costs."""
        if not self._held:
            self._held_since = self._loop.time()
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes + len(data) // 2 >= self._window_bytes:
            self._hear()

    def _hear(self) -> None:
        """Brings the core what is held; it counts as arrived with its first frame."""
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
            self.do(self._session.audio, data, self._held_since)

    def do(self, event: Callable[..., list[Command]], *arguments: Any) -> None:
        """Brings the core an event and carries out what it wants; a fault ends the connection, not the process."""
        if self.is_over:
            return
        try:
            for command in event(*arguments):
                self._carry_out(command)
        except (Closing, TooManyMarksError):
            raise
        except Exception as fault:
            self.fail(fault, "session")
        self._moved.set()
        if self._session.wants_audio:
            self._room.set()
        else:
            self._room.clear()

    async def owed_nothing(self) -> None:
        """Waits until no final is due and all that is due to the stores is in them."""
        await self._until(lambda: not self._session.owes and not self._stores)

    @property
    def has_room(self) -> bool:
        """More audio is wanted."""
        return self._room.is_set()

    async def room(self) -> None:
        """Waits until more audio is wanted."""
        await self._room.wait()

    def now(self) -> float:
        """The clock that all events of this session are given."""
        return self._loop.time()

    def fail(self, fault: BaseException, where: str) -> None:
        """Something broke that should not: the client may resume from what is stored."""
        self._parts.metrics.faults.labels(where).inc()
        log.error("session failed", session=self.session_id, where=where, exc_info=fault)
        self.over(Closing(CloseCode.INTERNAL, "internal fault: resume the session", retry_after_ms=500))

    def over(self, closing: Closing | None) -> None:
        """Lets go of everything; the session object is of no more use."""
        if self.is_over:
            return
        self.is_over = True
        if self._traced is not None:
            self._traced.end()
        self._parts.inference.forget(self)
        for task in (*self._tasks, *([self._storing] if self._storing else [])):
            if task is not asyncio.current_task():
                task.cancel()
        if self.outbox is not None and closing is not None:
            self.outbox.close(closing)
        self._room.set()
        self._moved.set()
        self.on_over(self)

    async def touch(self) -> None:
        """Keeps the stored state alive, and notices when another process has taken the session over."""
        if self.is_over or self._stores:
            return
        try:
            await self.keeper.touch()
        except StaleOwnerError:
            self._taken_over()
        except StoreError as error:
            log.warning("session store out of reach", session=self.session_id, error=str(error))

    # --- what inference does (server.inference.service.PartialSource)

    def take_partial(self) -> Decode | None:
        """The newest window for a partial."""
        # What is held may wait: the core must not want anything new from within the scheduler.
        return None if self.is_over else self._session.take_partial(self._loop.time())

    def on_hypothesis(self, job: int, hypothesis: Hypothesis) -> None:
        """Words for a window."""
        self.do(self.session.hypothesis, job, hypothesis, self._loop.time())

    def on_decode_failed(self, job: int, reason: str) -> None:
        """No words for a window, ever."""
        log.warning("decode failed", session=self.session_id, reason=reason)
        self.do(self.session.decode_failed, job, reason, self._loop.time())

    # --- carrying out commands

    def _carry_out(self, command: Command) -> None:
        inference = self._parts.inference
        if self._traced is not None and isinstance(command, WantPartial | Decode):
            self._traced.heard(self._loop.time() - command.since if isinstance(command, WantPartial) else 0.0)
        match command:
            case Send():
                self._send(command)
            case DetectVoice():
                self._detect(command)
            case WantPartial():
                inference.want_partial(self, command.since, self.language)
            case Decode():
                inference.decode(self, command)
            case DropPartial():
                inference.drop_partial(self)
            case Cancel():
                inference.cancel(self, command.job)
            case Punctuate():
                self._spawn(self._punctuate(command), "punctuation")
            case Store() | Finish():
                self._stores.append(command)
                if self._storing is None:
                    self._storing = self._loop.create_task(self._store_all(), name=f"store {self.session_id}")

    def _send(self, command: Send) -> None:
        message = command.message
        if isinstance(message, Done):
            self._done = message
            return
        if self._traced is not None and isinstance(message, SpeechStarted):
            self._traced.started(message.at)
        if isinstance(message, Final):
            self.finals += 1
            if self._traced is not None:
                self._traced.final(message)
        if isinstance(message, Partial):
            if self._traced is not None:
                self._traced.partial()
            if self._is_followed:
                publish = self._parts.sessions.publish_partial
                self._spawn_quietly(publish(self.session_id, message.text, message.seq))
        if self.outbox is not None:
            self.outbox.put(message, command.since, command.speech_since)

    def _spawn(self, work: Coroutine[Any, Any, None], where: str) -> None:
        task = self._loop.create_task(work, name=where)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._spawned(done, where))

    def _spawned(self, task: asyncio.Task[None], where: str) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self.fail(fault, where)

    def _spawn_quietly(self, work: Coroutine[Any, Any, None]) -> None:
        """For what is best effort: a failure is logged where it happens often enough to matter, and forgotten."""
        task = self._loop.create_task(work)
        self._tasks.add(task)

        def finished(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            if not done.cancelled() and done.exception() is not None:
                self._parts.metrics.store_errors.labels("publish_partial").inc()

        task.add_done_callback(finished)

    def _detect(self, command: DetectVoice) -> None:
        state = command.state if isinstance(command.state, VadState) else VadState.initial()
        asked = self._loop.time()

        def answer(outcome: Result | Exception) -> None:
            if self.is_over:
                return
            if isinstance(outcome, Exception):
                self.fail(outcome, "voice activity")
                return
            probabilities, after = outcome
            now = self._loop.time()
            self._parts.metrics.vad.observe(now - asked)
            self.do(self.session.voice, command.epoch, probabilities.tolist(), after, now)

        try:
            self._parts.vad.submit(state, command.samples, answer)
        except VadOverloadedError as error:
            # Not in the midst of what the core wants: the rest of it must not begin behind the end.
            self._loop.call_soon(self.over, Closing(CloseCode.OVERLOADED, f"overloaded: {error}", retry_after_ms=2000))

    async def _punctuate(self, command: Punctuate) -> None:
        with tracing.step(self, "punctuate"):
            text = await self._parts.inference.punctuate(command.text, command.context, command.language)
        self.do(self.session.punctuated, command.job, text, self._loop.time())

    # --- stores: strictly in order

    async def _store_all(self) -> None:
        try:
            while self._stores and not self.is_over:
                command = self._stores[0]
                if isinstance(command, Store):
                    await self.keeper.store(command, self)
                    self._stores.popleft()
                    self.do(self.session.stored, command.ticket, self._loop.time())
                else:
                    self._stores.popleft()
                    self._say_done()
                    self._moved.set()
        except StaleOwnerError:
            self._taken_over()
        except Exception as fault:
            self.fail(fault, "store")
        finally:
            self._storing = None

    def on_store_away(self) -> None:
        """A store does not answer: tells the client. It is part of `server.keeping.Waiter`."""
        if self.outbox is not None:
            text = "the transcript store is out of reach: finals wait until it is back, keep your audio"
            self.outbox.put(Error(CloseCode.INTERNAL, text, recoverable=True, retry_after_ms=1000))

    def _taken_over(self) -> None:
        self.over(Closing(CloseCode.TAKEN_OVER, TAKEN_OVER))

    # --- the end

    def _say_done(self) -> None:
        """All is stored and the audio has ended: tells the client, now or when it comes back."""
        self.is_finished = True
        if self.outbox is None:
            if self._is_left:
                self.conclude()
        elif self._done is not None and not self.outbox.is_held:
            # Where it is held, `replay` says so once the client knows its session again.
            self.outbox.put(self._done)
            self.outbox.close(Closing(CloseCode.NORMAL, ""))

    def leave(self) -> None:
        """Nobody will ask any more: ends the session, and deletes the live state once all that was said is stored."""
        self._is_left = True
        if self.is_finished:
            self.conclude()
        else:
            self.do(self.session.end, self.now())

    def conclude(self) -> None:
        """Deletes the live state: the client knows that the session has ended, or will never ask."""
        if not self.is_over and not self.is_concluding:
            self.is_concluding = True
            self._spawn(self._conclude(), "conclusion")

    async def _conclude(self) -> None:
        try:
            await self.keeper.delete(self)
        except StaleOwnerError:
            self._taken_over()
        else:
            self.over(None)

    async def wait_over(self) -> None:
        """Waits until nothing more will come of this session."""
        await self._until(lambda: False)

    async def _until(self, is_reached: Callable[[], bool]) -> None:
        """Waits until something is so, or the session is over."""
        while not self.is_over and not is_reached():
            self._moved.clear()
            await self._moved.wait()

    async def replay(self, outbox: Outbox, first: list[Send], last_seq: int) -> None:
        """Brings a resumed connection up to date: `first`, the stored finals after `last_seq`, then what is live."""
        finals = await self._parts.transcripts.finals(self.session_id, after=last_seq)
        sent = finals[-1].seq if finals else last_seq
        outbox.release([*first, *map(Send, finals)], sent)
        if self.is_finished:
            self._say_done()
