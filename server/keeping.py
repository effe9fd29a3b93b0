"""What a session has the stores keep: every write is tried until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import structlog

from server import tracing
from server.parts import Parts
from server.session.commands import Store
from server.session.session import Session
from session_store.base import StaleOwnerError, StoreError, UnknownSessionError

log = structlog.get_logger(__name__)

STORE_RETRY_S = (0.1, 0.25, 0.5, 1.0)
"""Waits between tries to reach a store; the last one repeats."""


class Waiter(Protocol):
    """Who waits for a write, and in whose trace each try stands."""

    def on_store_away(self) -> None:
        """The write has failed twice; it is tried further."""


class Keeper:
    """One session's place in both stores, and the fence that gives the right to write there.

    Every method raises `StaleOwnerError` where the session is another process's by now; nothing can be written then.
    A resume in this process, which changes `fence` while a write is under way, has the write done again.
    """

    def __init__(self, session: Session, session_id: str, fence: int, parts: Parts, ownership: asyncio.Lock) -> None:
        """`fence` is what the store gave when the session was created or claimed. `ownership` is held by whoever is
        about to change it."""
        self.fence = fence
        self._session = session
        self._session_id = session_id
        self._parts = parts
        self._ownership = ownership

    async def register(self) -> None:
        """Gives the session its line in the transcript store; tried once.

        Raises:
            StoreError: the store is out of reach.
        """
        state, settings = self._session.state(), self._session.settings
        await self._parts.transcripts.open_session(
            self._session_id, label=settings.session_label, language=settings.language, key_id=state.key_id
        )

    async def touch(self) -> None:
        """Renews the stored state's time to live; a store that lost the state is given it again. Tried once.

        Raises:
            StoreError: the store is out of reach.
        """
        fence = self.fence
        try:
            await self._touch()
        except StaleOwnerError:
            if not await self._was_resumed(fence):
                raise

    async def store(self, command: Store, waiter: Waiter) -> None:
        """Stores a final and the state behind it, or the state alone."""
        await self._surely(waiter, self._store, command)

    async def delete(self, waiter: Waiter) -> None:
        """Ends the transcript and deletes the live state."""
        await self._surely(waiter, self._delete)

    async def _surely(self, waiter: Waiter, write: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Tries until the store has it."""
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            started, fence = loop.time(), self.fence
            try:
                with tracing.step(waiter, "store"):
                    await write(*arguments)
            except StaleOwnerError:
                if not await self._was_resumed(fence):
                    raise
            except StoreError as error:
                self._parts.metrics.store_errors.labels("save").inc()
                if tries == 1:
                    log.warning("store out of reach", session=self._session_id, error=str(error))
                    waiter.on_store_away()
                wait = STORE_RETRY_S[min(tries, len(STORE_RETRY_S) - 1)]
                tries += 1
                await asyncio.sleep(wait)
            else:
                self._parts.metrics.store_seconds.labels("save").observe(loop.time() - started)
                return

    async def _was_resumed(self, fence: int) -> bool:
        """The store has a newer fence than this one: whether that is because the session was resumed in this process
        while the write was under way."""
        async with self._ownership:
            return self.fence != fence

    async def _store(self, command: Store) -> None:
        parts = self._parts
        if command.final is not None:
            # The fence first: an owner that was replaced must not write a final that its successor would not. A
            # store that lost the session is given it below: what the core knows by now counts on this final.
            with suppress(UnknownSessionError):
                await parts.sessions.touch(self._session_id, fence=self.fence, ttl_s=parts.ttl_s)
            try:
                await parts.transcripts.append(self._session_id, command.final)
            except UnknownSessionError:
                await self.register()
                await parts.transcripts.append(self._session_id, command.final)
            await parts.sessions.publish_final(self._session_id, command.final)
            if parts.log_transcripts:
                log.info("final", session=self._session_id, seq=command.final.seq, text=command.final.text)
        await parts.sessions.save(command.state, fence=self.fence, ttl_s=parts.ttl_s)

    async def _touch(self) -> None:
        """Renews the stored state's time to live; a store that lost the state is given it again."""
        sessions, ttl_s = self._parts.sessions, self._parts.ttl_s
        try:
            await sessions.touch(self._session_id, fence=self.fence, ttl_s=ttl_s)
        except UnknownSessionError:
            await sessions.save(self._session.state(), fence=self.fence, ttl_s=ttl_s)

    async def _delete(self) -> None:
        with suppress(UnknownSessionError):
            await self._parts.transcripts.end_session(self._session_id, audio_seconds=self._session.audio_seconds)
        await self._parts.sessions.delete(self._session_id, fence=self.fence)
