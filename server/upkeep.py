"""The upkeep of stored sessions: those of this process live on, those whose owner is gone are closed out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from server.live import LiveSession
from server.parts import Parts
from server.session.settings import SessionSettings
from session_store.base import SessionState, StoreError, UnknownSessionError

log = structlog.get_logger(__name__)

TOUCHES_PER_WINDOW = 4
"""How often within the resume window the stored state is told that its owner lives."""

EXPIRY_GRACE_S = 5.0
"""Beyond the time in which its owner would renew it, before another process closes an expired session out."""

SWEEP_LIMIT = 100


class Upkeep:
    """Tells the stores now and then which sessions live, and asks them which do not any more."""

    def __init__(self, parts: Parts, resume_window_s: float, sessions: Callable[[], Sequence[LiveSession]]) -> None:
        """`sessions` gives those that are alive in this process."""
        self._parts = parts
        self._interval_s = resume_window_s / TOUCHES_PER_WINDOW
        self._sessions = sessions
        self._ticker: asyncio.Task[None] | None = None
        self._expired: list[SessionState] = []

    def start(self) -> None:
        """Goes on until `close`, whatever the stores say."""
        self._ticker = asyncio.get_running_loop().create_task(self._tick(), name="session upkeep")

    async def close(self) -> None:
        """Does nothing more."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await asyncio.gather(*(live.touch() for live in self._sessions() if not live.is_concluding))
                await self.close_out()
            except StoreError as error:
                log.warning("session store out of reach", error=str(error))
            except Exception:
                self._parts.metrics.faults.labels("upkeep").inc()
                log.exception("session upkeep failed")

    async def close_out(self) -> None:
        """Ends sessions whose owner is gone with all it held.

        Raises:
            StoreError: a store is out of reach; those that were not ended are the next call's.
        """
        # The store gives each out once: those that cannot be written down now are kept for the next time.
        self._expired += await self._parts.sessions.expired(SWEEP_LIMIT, grace_s=self._interval_s + EXPIRY_GRACE_S)
        while self._expired:
            state = self._expired[0]
            rate = SessionSettings.from_json(state.settings).sample_rate
            with suppress(UnknownSessionError):
                await self._parts.transcripts.end_session(state.session_id, audio_seconds=state.acked / rate)
            self._expired.pop(0)
            log.info("session closed out", session=state.session_id)
