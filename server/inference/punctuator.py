"""Marks and casing for finals. Best effort: a final does not wait for them longer than a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from server.inference import wire
from server.inference.errors import InferenceError
from server.inference.health import HealthMonitor
from server.inference.observer import InferenceObserver
from server.inference.replica import Pool


class Punctuator:
    """Sends texts to the punctuation model, as many at once as it may have."""

    def __init__(
        self,
        pool: Pool,
        monitor: HealthMonitor,
        timeout_s: float,
        clock: Callable[[], float],
        observer: InferenceObserver,
    ) -> None:
        self._pool = pool
        self._monitor = monitor
        self._timeout_s = timeout_s
        self._clock = clock
        self._observer = observer
        self._room = asyncio.Semaphore(sum(replica.limit for replica in pool.replicas))
        self._callers = 0
        self._no_callers = asyncio.Event()
        self._no_callers.set()
        self._is_open = True

    async def punctuate(self, text: str, context: str, language: str) -> str | None:
        """The text with marks and casing; None if they cannot be had in time."""
        if not self._pool.is_up:
            return None
        self._callers += 1
        self._no_callers.clear()
        try:
            async with asyncio.timeout(self._timeout_s), self._room:
                return await self._ask(text, context, language)
        except TimeoutError:
            return None
        finally:
            self._callers -= 1
            if not self._callers:
                self._no_callers.set()

    def stop(self) -> None:
        """Callers that wait for room get None when it is their turn."""
        self._is_open = False

    async def wait_closed(self) -> None:
        """Waits until no caller is left; they end when the connections have been closed."""
        await self._no_callers.wait()

    async def _ask(self, text: str, context: str, language: str) -> str | None:
        replica = self._pool.pick()
        if replica is None or not self._is_open:
            return None
        self._pool.wanted_at = begun = self._clock()
        outcome = "cancelled"
        replica.in_flight += 1
        try:
            request = wire.punctuation_request(self._pool.name, text, context, language)
            answer = wire.punctuated(await replica.triton.client.infer(request, self._timeout_s))
        except InferenceError as error:
            outcome = error.fault.value
            self._monitor.failed(replica, error)
            return None
        else:
            outcome = "ok"
            self._monitor.answered(replica)
            return answer
        finally:
            replica.in_flight -= 1
            self._observer.request_done(self._pool.name, "punctuation", self._clock() - begun, outcome)
